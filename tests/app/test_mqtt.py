"""Messages to a real broker: Mosquitto, started, killed and restarted here."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edge_tracker.app.config.schema import MqttConfig
from edge_tracker.app.frame_results import FrameTracks, ObjectEvent
from edge_tracker.app.outputs import mqtt
from edge_tracker.app.outputs.frigate import FrigateView
from edge_tracker.app.outputs.mqtt import UNDER_WAY, MqttPublisher, check_mqtt
from edge_tracker.app.outputs.payloads import event_payload, totals_payload, tracks_payload
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import CameraStats, Stats
from edge_tracker.errors import ConfigError
from tests.waiting import PATIENCE_S, free_port, wait_for

from .broker import Broker, Subscriber
from .truth import results

DOCS = Path(__file__).parents[2] / "docs/mqtt.md"
NOTHING = FrameTracks(np.empty(0, np.int64), np.empty((0, 4)), np.empty(0, np.int64), np.empty(0))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "FIRST_WAIT_S", 0.1)
    monkeypatch.setattr(mqtt, "LONGEST_WAIT_S", 0.2)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path).start()
    yield broker
    broker.stop()


@pytest.fixture
def closing() -> Iterator[Callable]:
    """Closes what a test opens, also when it fails."""
    opened: list = []
    yield lambda thing: opened.append(thing) or thing
    for thing in reversed(opened):
        thing.close(0.0) if isinstance(thing, MqttPublisher) else thing.close()


def stats_of(*cameras: str) -> Stats:
    return Stats(cameras={camera: CameraStats(camera) for camera in cameras or ("front",)})


def config(port: int, **keys) -> MqttConfig:
    return MqttConfig(**{"host": "127.0.0.1", "port": port, "client_id": "publisher", **keys})


def event(number: int, kind: str = "update", **fields) -> ObjectEvent:
    values = {
        "class_name": "person", "score": 0.5, "top_score": 0.5, "box": (0.0, 0.0, 10.0, 20.0), "zones": (),
        "entered_zones": (), "started": 1000.5, "time": 1000.5 + number,
    }  # fmt: skip
    return ObjectEvent(kind, **{"id": number, **values, **fields})


def tell(publisher: MqttPublisher, *events, camera: str = "front", time: float = 0.0) -> None:
    publisher.publish(
        camera,
        Frame(1, time, None, 1000.0 + time),
        FrameTracks(NOTHING.ids, NOTHING.ltrb, NOTHING.class_ids, NOTHING.confidence, events=events),
    )


def ids_of(payloads: list[bytes]) -> list[int]:
    return [json.loads(payload)["id"] for payload in payloads]


# ---- a run ---------------------------------------------------------------------------------------------------------


def test_a_real_run_arrives_whole_and_in_order(broker: Broker, closing, shared_data: Path):
    subscriber = closing(Subscriber(broker.port))
    stats = stats_of()
    publisher = closing(MqttPublisher(config(broker.port, tracks_per_second=2.0), ["front"], stats))
    wait_for(lambda: stats.mqtt_connected, "the connection")
    expected, sampled, totals = [], [], {}
    for frame, tracks in results(shared_data, stats.cameras["front"], 200):
        publisher.publish("front", frame, tracks)
        expected += [json.loads(json.dumps(event_payload("front", happened))) for happened in tracks.events]
        totals = stats.cameras["front"].totals
        if frame.index % 50 == 0:  # tracks are only the newest, and this is faster than any camera
            wait_for(lambda: stats.mqtt_queue == 0, "the queue")
            sampled.append(frame.time)
    publisher.close(PATIENCE_S)
    wait_for(lambda: subscriber.of("edge-tracker/available")[-1:] == [b"offline"], "the end")
    assert [json.loads(p) for p in subscriber.of("edge-tracker/front/events")] == expected
    assert len(expected) > 200
    assert {e["kind"] for e in expected} == {"object", "zone", "line"}
    assert json.loads(subscriber.of("edge-tracker/front/zones")[-1])["totals"] == totals
    assert subscriber.of("edge-tracker/available") == [b"online", b"offline"]
    times = [json.loads(p)["stream_time"] for p in subscriber.of("edge-tracker/front/tracks")]
    assert times == sorted(set(times))
    assert len(times) >= len(sampled)
    assert (stats.mqtt_lost, stats.mqtt_queue, stats.mqtt_connected) == (0, 0, False)
    # Whoever comes later gets what holds, and nothing that has passed.
    late = closing(Subscriber(broker.port, "late"))
    wait_for(lambda: len(late.got) == 2, "what is retained")
    assert {got.topic for got in late.got} == {"edge-tracker/available", "edge-tracker/front/zones"}
    assert all(got.retain for got in late.got)


@pytest.mark.slow
def test_tracks_come_as_often_as_asked_by_the_streams_time(broker: Broker, closing, shared_data: Path):
    subscriber = closing(Subscriber(broker.port))
    stats = stats_of()
    publisher = closing(MqttPublisher(config(broker.port, tracks_per_second=2.0), ["front"], stats))
    wait_for(lambda: stats.mqtt_connected, "the connection")
    sent = {}
    for frame, tracks in results(shared_data, stats.cameras["front"], 70):
        publisher.publish("front", frame, tracks)
        sent[frame.index] = tracks_payload("front", frame, tracks)
        wait_for(lambda: stats.mqtt_queue == 0, "the queue")
    publisher.close(PATIENCE_S)
    wait_for(lambda: subscriber.of("edge-tracker/available")[-1:] == [b"offline"], "the end")
    got = [json.loads(p) for p in subscriber.of("edge-tracker/front/tracks")]
    assert len(got) == 21  # from 0 to 10.0 s
    assert got == [json.loads(json.dumps(sent[tracks["frame"]])) for tracks in got]
    # At 7 frames a second, the frames nearest after each half second.
    assert [tracks["frame"] for tracks in got[:6]] == [1, 5, 8, 12, 15, 19]


def test_no_tracks_at_a_rate_of_zero(broker: Broker, closing):
    subscriber = closing(Subscriber(broker.port))
    publisher = closing(MqttPublisher(config(broker.port, tracks_per_second=0.0), ["front"], stats_of()))
    for second in range(5):
        tell(publisher, event(second), time=float(second))
    publisher.close(PATIENCE_S)
    wait_for(lambda: subscriber.of("edge-tracker/available")[-1:] == [b"offline"], "the end")
    assert {got.topic for got in subscriber.got} == {"edge-tracker/available", "edge-tracker/front/events"}


def test_cameras_share_a_connection_and_keep_their_order(broker: Broker, closing):
    subscriber = closing(Subscriber(broker.port))
    stats = stats_of("a", "b", "c")
    publisher = closing(MqttPublisher(config(broker.port, topic="site/1"), ["a", "b", "c"], stats))

    def run(camera: str) -> None:
        for number in range(200):
            tell(publisher, event(number), camera=camera)

    threads = [threading.Thread(target=run, args=(camera,)) for camera in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    publisher.close(PATIENCE_S)
    wait_for(lambda: subscriber.of("site/1/available")[-1:] == [b"offline"], "the end")
    for camera in "abc":
        assert ids_of(subscriber.of(f"site/1/{camera}/events")) == list(range(200))
    assert stats.mqtt_lost == 0


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_events_have_the_quality_of_service_asked_for(broker: Broker, closing, qos: int):
    subscriber = closing(Subscriber(broker.port))
    publisher = closing(MqttPublisher(config(broker.port, qos=qos), ["front"], stats_of()))
    for number in range(100):
        tell(publisher, event(number))
    publisher.close(PATIENCE_S)
    # Not for the end: what comes with quality 2 takes two steps more than that.
    wait_for(lambda: len(subscriber.of("edge-tracker/front/events")) >= 100, "the events")
    assert ids_of(subscriber.of("edge-tracker/front/events")) == list(range(100))
    wait_for(lambda: re.search(rf"PUBLISH from publisher \(d0, q{qos}, .*front/events", broker.log()), "the log")


# ---- a broker that goes away ---------------------------------------------------------------------------------------


def test_a_broker_that_is_not_there_yet_gets_all_when_it_comes(tmp_path: Path, closing, caplog):
    broker = Broker(tmp_path)
    stats = stats_of()
    with caplog.at_level(logging.INFO):
        publisher = closing(MqttPublisher(config(broker.port, queue=50), ["front"], stats))
        for number in range(80):
            tell(publisher, event(number), time=float(number))
        wait_for(lambda: "no connection" in caplog.text, "a line about it")
        assert (stats.mqtt_connected, stats.mqtt_lost) == (False, 30)
        assert stats.mqtt_queue == 50 + 1  # and the newest tracks
        try:
            broker.start()
            subscriber = closing(Subscriber(broker.port))
            tell(publisher, event(80))
            wait_for(lambda: stats.mqtt_connected, "the connection")
            wait_for(lambda: stats.mqtt_queue == 0, "the queue")
            tell(publisher, event(81))
            publisher.close(PATIENCE_S)
            wait_for(lambda: subscriber.of("edge-tracker/available")[-1:] == [b"offline"], "the end")
        finally:
            broker.stop()
    # What was published before the subscription is not for it; its order and its end are.
    ids = ids_of(subscriber.of("edge-tracker/front/events"))
    assert ids == list(range(82))[-len(ids) :]
    assert caplog.text.count("no connection") == 1  # not one for each attempt


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_broker_that_is_restarted_misses_nothing_it_has_not_acknowledged(
    broker: Broker, closing, how: signal.Signals
):
    subscriber = closing(Subscriber(broker.port))
    stats = stats_of()
    publisher = closing(MqttPublisher(config(broker.port, queue=1000), ["front"], stats))
    wait_for(lambda: stats.mqtt_connected, "the connection")
    for number in range(300):
        tell(publisher, event(number))
    wait_for(lambda: len(subscriber.of("edge-tracker/front/events")) > 100, "the first events")
    broker.stop(how)
    wait_for(lambda: not stats.mqtt_connected, "the loss")
    acknowledged = 300 - stats.mqtt_queue
    for number in range(300, 600):
        tell(publisher, event(number))
    broker.start()
    wait_for(lambda: stats.mqtt_connected, "the connection")
    for number in range(600, 700):
        tell(publisher, event(number))
    wait_for(lambda: stats.mqtt_queue == 0, "the queue")
    publisher.close(PATIENCE_S)
    # What a broker has acknowledged is its own to keep. One that is killed can lose the last of it, before it has
    # passed it on or saved it.
    promised = range(acknowledged if how == signal.SIGKILL else 0, 700)
    wait_for(lambda: {*promised} <= {*ids_of(subscriber.of("edge-tracker/front/events"))}, "the events")
    wait_for(lambda: subscriber.of("edge-tracker/available")[-1:] == [b"offline"], "the end")
    ids = ids_of(subscriber.of("edge-tracker/front/events"))
    assert stats.mqtt_lost == 0
    assert list(dict.fromkeys(ids)) == sorted({*ids})
    # At least once: what was under way when the connection broke, to the broker and from it, may come again.
    assert len(ids) - len({*ids}) <= 2 * UNDER_WAY
    # A broker that is asked to stop still speaks the last will; one that is killed cannot. Retained, it may come twice.
    said = [payload for payload, _ in groupby(subscriber.of("edge-tracker/available"))]
    assert said == [b"online", b"offline"] * (2 if how == signal.SIGTERM else 1)


def test_while_the_broker_is_away_the_oldest_are_lost_and_counted(broker: Broker, closing):
    subscriber = closing(Subscriber(broker.port))
    stats = stats_of()
    publisher = closing(MqttPublisher(config(broker.port, queue=100), ["front"], stats))
    tell(publisher, event(0))
    wait_for(lambda: subscriber.of("edge-tracker/front/events"), "the first event")
    wait_for(lambda: stats.mqtt_queue == 0, "the queue")
    broker.stop()
    wait_for(lambda: not stats.mqtt_connected, "the loss")
    for number in range(1, 1001):
        tell(publisher, event(number), time=float(number))
        assert stats.mqtt_queue <= 100 + 3  # tracks, counts, availability
    assert stats.mqtt_lost == 900
    broker.start()
    publisher.close(PATIENCE_S)
    wait_for(lambda: len(set(ids_of(subscriber.of("edge-tracker/front/events")))) == 101, "the events")
    wait_for(lambda: subscriber.of("edge-tracker/available")[-1:] == [b"offline"], "the end")
    assert list(dict.fromkeys(ids_of(subscriber.of("edge-tracker/front/events")))) == [0, *range(901, 1001)]
    assert stats.mqtt_lost == 900


def test_a_broker_that_hangs_holds_up_nobody(broker: Broker, closing):
    stats = stats_of()
    publisher = closing(MqttPublisher(config(broker.port, queue=100), ["front"], stats))
    wait_for(lambda: stats.mqtt_connected, "the connection")
    wait_for(lambda: stats.mqtt_queue == 0, "the queue")
    broker.send(signal.SIGSTOP)
    for number in range(1000):
        tell(publisher, event(number), time=float(number))
        assert stats.mqtt_queue <= 100 + UNDER_WAY + 3
    wait_for(lambda: stats.mqtt_lost >= 1000 - 100 - UNDER_WAY, "the losses")
    publisher.close(0.5)
    assert stats.mqtt_lost == 1000  # none was acknowledged
    assert stats.mqtt_queue == 0


@pytest.mark.slow
def test_a_broker_that_hangs_is_given_up_and_taken_up_again(broker: Broker, closing, monkeypatch):
    monkeypatch.setattr(mqtt, "KEEPALIVE_S", 1)
    subscriber = closing(Subscriber(broker.port))
    stats = stats_of()
    publisher = closing(MqttPublisher(config(broker.port), ["front"], stats))
    tell(publisher, event(0))
    wait_for(lambda: stats.mqtt_connected and stats.mqtt_queue == 0, "the first event")
    broker.send(signal.SIGSTOP)
    for number in range(1, 100):
        tell(publisher, event(number))
    wait_for(lambda: not stats.mqtt_connected, "the loss")
    broker.send(signal.SIGCONT)
    wait_for(lambda: stats.mqtt_connected and stats.mqtt_queue == 0, "the rest")
    publisher.close(PATIENCE_S)
    wait_for(lambda: len(set(ids_of(subscriber.of("edge-tracker/front/events")))) == 100, "the events")
    wait_for(lambda: subscriber.of("edge-tracker/available")[-1:] == [b"offline"], "the end")
    ids = ids_of(subscriber.of("edge-tracker/front/events"))
    assert list(dict.fromkeys(ids)) == list(range(100))
    assert len(ids) - 100 <= UNDER_WAY
    assert stats.mqtt_lost == 0


def test_waits_grow_to_a_limit_and_differ(monkeypatch):
    monkeypatch.undo()
    backoffs = [mqtt.waits() for _ in range(200)]
    for longest in (1, 2, 4, 8, 16, 32, 60, 60):
        waits = [backoff.next() for backoff in backoffs]
        assert longest / 2 <= min(waits) < max(waits) <= longest
    for _ in range(100_000):
        backoffs[0].next()
    waits = [backoffs[0].next() for _ in range(200)]
    assert 30 <= min(waits) < max(waits) <= 60


def test_a_broker_that_forgot_everything_is_told_again(tmp_path: Path, closing):
    broker = Broker(tmp_path).start()
    stats = stats_of()
    publisher = closing(MqttPublisher(config(broker.port), ["front"], stats))
    try:
        stats.cameras["front"].totals = {"yard": {"inside": 2}}
        tell(publisher)
        wait_for(lambda: stats.mqtt_connected and stats.mqtt_queue == 0, "the counts")
        broker.stop()
        wait_for(lambda: not stats.mqtt_connected, "the loss")
        (tmp_path / "mosquitto.db").unlink()
        broker.start()
        wait_for(lambda: stats.mqtt_connected and stats.mqtt_queue == 0, "the counts")
        late = closing(Subscriber(broker.port))
        wait_for(lambda: len(late.got) >= 2, "what is retained")
        assert late.of("edge-tracker/available") == [b"online"]
        assert json.loads(late.of("edge-tracker/front/zones")[0])["totals"] == {"yard": {"inside": 2}}
    finally:
        publisher.close(1.0)
        broker.stop()


CLIENT = """
import sys, time
from edge_tracker.app.outputs.mqtt import MqttPublisher
from edge_tracker.app.config.schema import MqttConfig
from edge_tracker.app.stats import CameraStats, Stats
stats = Stats(cameras={"front": CameraStats("front")})
publisher = MqttPublisher(MqttConfig(host="127.0.0.1", port=int(sys.argv[1])), ["front"], stats)
time.sleep(600)
"""


def test_the_last_will_speaks_for_a_process_that_was_killed(broker: Broker, closing):
    subscriber = closing(Subscriber(broker.port))
    process = subprocess.Popen([sys.executable, "-c", CLIENT, str(broker.port)])
    try:
        wait_for(lambda: subscriber.of("edge-tracker/available") == [b"online"], "the process")
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: subscriber.of("edge-tracker/available") == [b"online", b"offline"], "its last will")


def test_close_gives_up_on_a_broker_that_is_not_there(closing, caplog):
    stats = stats_of()
    publisher = closing(MqttPublisher(config(free_port()), ["front"], stats))
    tell(publisher, event(1), event(2))
    publisher.close(0.2)
    assert (stats.mqtt_lost, stats.mqtt_queue, stats.mqtt_connected) == (2, 0, False)
    assert "2 messages were not delivered" in caplog.text
    publisher.close(0.2)  # again: nothing more
    tell(publisher, event(3))
    assert stats.mqtt_lost == 2


def test_what_cannot_be_said_in_json_stops_no_camera(broker: Broker, closing, caplog):
    subscriber = closing(Subscriber(broker.port))
    stats = stats_of()
    publisher = closing(MqttPublisher(config(broker.port), ["front"], stats))
    for number in range(3):
        tell(publisher, event(number, box=(float("inf"), 0.0, 1.0, 1.0)))
    tell(publisher, event(9))
    publisher.close(PATIENCE_S)
    wait_for(lambda: subscriber.of("edge-tracker/available")[-1:] == [b"offline"], "the end")
    assert ids_of(subscriber.of("edge-tracker/front/events")) == [9]
    assert stats.mqtt_lost == 3
    assert caplog.text.count("could not be created") == 1


# ---- who may connect -----------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("needs mosquitto_passwd, which is not here")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "camera", "right-horse"], check=True)
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}").start()
    yield broker
    broker.stop()


def test_user_and_password_from_the_environment_and_from_a_file(
    guarded: Broker, closing, tmp_path: Path, monkeypatch, caplog
):
    subscriber = closing(Subscriber(guarded.port, username="camera", password="right-horse"))
    monkeypatch.setenv("BROKER_PASSWORD", "right-horse")
    (tmp_path / "secret").write_text("right-horse\n")
    caplog.set_level(logging.DEBUG)
    for number, keys in enumerate([{"password_env": "BROKER_PASSWORD"}, {"password_file": str(tmp_path / "secret")}]):
        publisher = closing(MqttPublisher(config(guarded.port, username="camera", **keys), ["front"], stats_of()))
        tell(publisher, event(number))
        publisher.close(PATIENCE_S)
        wait_for(lambda n=number: len(subscriber.of("edge-tracker/front/events")) == n + 1, "the event")
    assert "right-horse" not in caplog.text


def test_a_wrong_password_is_told_once_without_it_and_tried_again(guarded: Broker, closing, monkeypatch, caplog):
    monkeypatch.setenv("BROKER_PASSWORD", "wrong-horse")
    caplog.set_level(logging.DEBUG)
    stats = stats_of()
    keys = {"username": "camera", "password_env": "BROKER_PASSWORD"}
    publisher = closing(MqttPublisher(config(guarded.port, **keys), ["front"], stats))
    wait_for(lambda: guarded.log().count("not authorised") >= 3, "three attempts")
    publisher.close(1.0)
    assert stats.mqtt_connected is False
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert lines == [f"MQTT: no connection to 127.0.0.1:{guarded.port}: not authorized; trying again"]
    assert "wrong-horse" not in caplog.text


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """ca.pem, and signed by it server.pem for 127.0.0.1 and client.pem, with their keys; other.pem is another's."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, which is not here")
    for name in ("ca", "other"):
        openssl(
            tmp_path, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
            f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN=test {name}",
        )  # fmt: skip
    for name, names in (("server", "IP:127.0.0.1"), ("client", "DNS:client")):
        (tmp_path / f"{name}.ext").write_text(f"subjectAltName={names}\n")
        openssl(
            tmp_path, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
            f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}",
        )  # fmt: skip
        openssl(
            tmp_path, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext",
        )  # fmt: skip
    return tmp_path


@pytest.fixture
def encrypted(certificates: Path) -> Iterator[Broker]:
    broker = Broker(
        certificates, f"cafile {certificates}/ca.pem", f"certfile {certificates}/server.pem",
        f"keyfile {certificates}/server.key", "require_certificate true",
    ).start()  # fmt: skip
    yield broker
    broker.stop()


def test_tls_with_certificates_of_both_sides(encrypted: Broker, certificates: Path, closing):
    stats = stats_of()
    files = {name: str(certificates / file) for name, file in
             (("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key"))}  # fmt: skip
    publisher = closing(MqttPublisher(config(encrypted.port, tls=True, **files), ["front"], stats))
    for number in range(300):
        tell(publisher, event(number))
    wait_for(lambda: stats.mqtt_connected, "the connection")
    publisher.close(PATIENCE_S)
    assert stats.mqtt_lost == 0
    wait_for(lambda: encrypted.log().count("Received PUBLISH from publisher (d0, q1, r0") == 300, "the log")


@pytest.mark.parametrize(
    ("ca", "host", "reason"),
    [("other.pem", "127.0.0.1", "certificate verify failed"), ("ca.pem", "localhost", "mismatch")],
)
def test_a_broker_that_cannot_prove_who_it_is_gets_nothing(
    encrypted: Broker, certificates: Path, closing, caplog, ca: str, host: str, reason: str
):
    stats = stats_of()
    files = {"ca": str(certificates / ca), "cert": str(certificates / "client.pem"),
             "key": str(certificates / "client.key")}  # fmt: skip
    publisher = closing(MqttPublisher(config(encrypted.port, host=host, tls=True, **files), ["front"], stats))
    tell(publisher, event(1))
    wait_for(lambda: reason in caplog.text.lower(), "the reason")
    publisher.close(0.5)
    assert stats.mqtt_connected is False
    assert "PUBLISH" not in encrypted.log()


def test_what_is_missing_is_named_before_anything_runs(tmp_path: Path, certificates: Path, monkeypatch):
    monkeypatch.delenv("NO_SUCH", raising=False)
    monkeypatch.setenv("THERE", "right-horse")
    empty, ca = tmp_path / "empty", str(certificates / "ca.pem")
    empty.write_text("\n")
    openssl(certificates, "ec", "-in", "client.key", "-aes128", "-passout", "pass:x", "-out", "locked.key")
    for keys, expected in [
        ({"username": "u", "password_env": "NO_SUCH"}, "password_env: the environment variable NO_SUCH is not set"),
        ({"username": "u", "password_file": str(tmp_path / "none")}, f"password_file: {tmp_path}/none: cannot be read"),
        ({"username": "u", "password_file": str(tmp_path)}, f"password_file: {tmp_path}: cannot be read"),
        ({"username": "u", "password_file": str(empty)}, f"password_file: {empty}: is empty"),
        ({"password_env": "THERE"}, "username: missing"),
        ({"tls": True, "ca": str(tmp_path / "none")}, f"ca: {tmp_path}/none: cannot be read"),
        ({"tls": True, "ca": str(empty)}, f"ca: {empty}: expected certificates in PEM format"),
        ({"tls": True, "cert": ca, "key": str(tmp_path / "none")}, f"cert: {ca}, key: {tmp_path}/none: cannot be read"),
        ({"tls": True, "cert": ca, "key": str(certificates / "other.key")}, f"cert: {ca}, key: "),
        ({"tls": True, "cert": str(certificates / "client.pem"), "key": str(certificates / "locked.key")}, "cert: "),
    ]:
        for refuse in (check_mqtt, lambda section: MqttPublisher(section, ["front"], stats_of())):
            with pytest.raises(ConfigError) as caught:
                refuse(config(1883, **keys))
            assert str(caught.value).startswith(expected)
            assert "\n" not in str(caught.value)
            assert "right-horse" not in str(caught.value)
    check_mqtt(config(1883, username="u", password_env="THERE"))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'edge-tracker[mqtt]'")):
        check_mqtt(config(1883))


# ---- Frigate's shape -----------------------------------------------------------------------------------------------


def test_frigate_events_and_counts_of_a_real_run(broker: Broker, closing, shared_data: Path):
    subscriber = closing(Subscriber(broker.port))
    stats = stats_of()
    publisher = closing(MqttPublisher(config(broker.port, topic="frigate", style="frigate"), ["front"], stats))

    def count_of(name: str) -> int:
        return int((subscriber.of(f"frigate/{name}") or [b"-1"])[-1])

    for frame, tracks in results(shared_data, stats.cameras["front"], 200):
        publisher.publish("front", frame, tracks)
        if frame.index == 100:
            wait_for(lambda: stats.mqtt_queue == 0, "the queue")
            crossing, here = sum(bool(zones) for zones in tracks.zones), len(tracks)
            wait_for(lambda n=crossing: count_of("crossing/person") == n, "the count")
            wait_for(lambda n=here: count_of("front/person") >= n, "the count, also of those that nobody sees just now")
    publisher.close(PATIENCE_S)
    wait_for(lambda: subscriber.of("frigate/available")[-1:] == [b"offline"], "the end")
    for name in ("front/person", "front/all", "crossing/person", "crossing/all"):
        assert subscriber.of(f"frigate/{name}")[-1] == b"0"
    told: dict[str, list[dict]] = {}
    for payload in subscriber.of("frigate/events"):
        message = json.loads(payload)
        told.setdefault(message["after"]["id"], []).append(message)
    assert len(told) > 5
    for id, messages in told.items():
        assert re.fullmatch(r"\d+\.\d{6}-\d+", id)
        assert [m["type"] for m in messages] == ["new", *["update"] * (len(messages) - 2), "end"]
        assert messages[0]["before"] == messages[0]["after"]
        for before, after in pairwise(messages):
            assert after["before"] == before["after"]
        assert messages[-1]["after"]["end_time"] is not None
        left, top, right, bottom = messages[0]["after"]["box"]
        assert messages[0]["after"]["area"] == (right - left) * (bottom - top) > 0
    # Crossings and zones are not Frigate's: they come as in the native style.
    assert {json.loads(p)["kind"] for p in subscriber.of("frigate/front/events")} == {"zone", "line"}


def test_frigate_counts_of_an_earlier_run_are_put_right():
    view = FrigateView()
    view.event("front", event(7, "end", entered_zones=("yard",), ended=1003.0))
    assert dict(view.changed_counts()) == {"front/person": 0, "front/all": 0, "yard/person": 0, "yard/all": 0}
    view.event("front", event(8, "new", class_name="a/b+c#", zones=("yard",), entered_zones=("yard",)))
    assert dict(view.changed_counts()) == {"front/a_b_c_": 1, "front/all": 1, "yard/a_b_c_": 1, "yard/all": 1}
    view.event("front", event(8, class_name=None, entered_zones=("yard",)))
    assert dict(view.changed_counts()) == {
        "front/a_b_c_": 0, "front/object": 1, "yard/a_b_c_": 0, "yard/object": 0, "yard/all": 0,
    }  # fmt: skip
    assert dict(view.changed_counts()) == {}


# ---- the documentation ---------------------------------------------------------------------------------------------


def examples(data: Path) -> dict[str, dict]:
    """A message of each kind, from a real scene."""
    stats, view = CameraStats("front"), FrigateView()
    found: dict[str, dict] = {}
    for frame, tracks in results(data, stats, 120):
        for happened in tracks.events:
            key = f"{type(happened).__name__} {happened.type}"
            found.setdefault(key, event_payload("front", happened))
            if isinstance(happened, ObjectEvent):
                found.setdefault(f"frigate {happened.type}", view.event("front", happened))
        if len(tracks) >= 2 and any(tracks.zones) and stats.totals["crossing"]["exits"]:
            found.setdefault("tracks", tracks_payload("front", frame, tracks))
            found.setdefault("totals", totals_payload("front", frame.wall, stats.totals))
    return json.loads(json.dumps(found))


def test_the_examples_in_the_documentation_are_real(shared_data: Path):
    real = list(examples(shared_data).values())
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)]
    assert len(shown) >= 7
    for example in shown:
        assert example in real


def test_every_field_of_a_message_is_in_the_documentation(shared_data: Path):
    text = DOCS.read_text()
    for message in examples(shared_data).values():
        for fields in (message, *message.get("tracks", []), message.get("after", {})):
            for field in fields:
                assert f"`{field}`" in text or f".{field}`" in text, field


def test_nothing_is_subscribed(broker: Broker, closing):
    stats = stats_of()
    publisher = closing(MqttPublisher(config(broker.port), ["front"], stats))
    wait_for(lambda: stats.mqtt_connected, "the connection")
    other = Client(CallbackAPIVersion.VERSION2, "other")
    other.connect("127.0.0.1", broker.port)
    other.loop_start()
    for topic in ("edge-tracker/available", "edge-tracker/front/events", "edge-tracker/restart"):
        other.publish(topic, b"{", qos=1).wait_for_publish(PATIENCE_S)
    other.disconnect()
    other.loop_stop()
    tell(publisher, event(1))
    publisher.close(PATIENCE_S)
    assert stats.mqtt_lost == 0
    assert "SUBSCRIBE from publisher" not in broker.log()
