"""The live page's server, over real HTTP."""

from __future__ import annotations

import http.client
import importlib
import json
import re
import socket
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress

import cv2
import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra 'server'")
pytest.importorskip("starlette", reason="needs the extra 'server'")

from prometheus_client.parser import text_string_to_metric_families

from edge_tracker.app.config.schema import ServerConfig
from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.outputs.annotate import Annotator
from edge_tracker.app.outputs.live import camera_image, connections, health, mjpeg
from edge_tracker.app.outputs.live.server import LiveServer
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import CameraStats, Stats
from edge_tracker.errors import ConfigError, OutputError
from tests.waiting import meanwhile, wait_for

TOKEN = "0123456789abcdef"
WAIT_S = 300.0


def tracks_of(count: int) -> FrameTracks:
    boxes = np.array([(10.0 + 30 * k, 20.0, 30.0 + 30 * k, 60.0) for k in range(count)]).reshape(-1, 4)
    return FrameTracks(
        np.arange(1, count + 1), boxes, np.zeros(count, np.int64), np.full(count, 0.5), ("person",), False
    )


def image_of(value: int) -> np.ndarray:
    return np.full((120, 160, 3), value, np.uint8)


@contextmanager
def serving(cameras=("yard", "gate"), stats=None, **config):
    stats = stats or Stats({name: CameraStats(name, connected=True) for name in cameras}, ready=True)
    server = LiveServer(ServerConfig(port=0, **config), stats, list(cameras))
    server.start()
    try:
        yield server
    finally:
        server.close()


def ask(server, path, method="GET", headers=None, body=None):
    """Status, headers in small letters, body."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.address[1], timeout=WAIT_S)) as connection:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {key.lower(): text for key, text in answer.getheaders()}, answer.read()


class Viewer:
    """Watches a stream over a plain socket."""

    def __init__(self, server, camera="yard", headers="", buffer=None):
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(WAIT_S)
        self.socket.connect(("127.0.0.1", server.address[1]))
        self.socket.sendall(f"GET /stream/{camera} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n".encode())
        self.file = self.socket.makefile("rb")
        self._begun = False

    def head(self) -> tuple[int, dict[str, str]]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            key, _, text = line.decode().partition(": ")
            headers[key.lower()] = text
        return status, headers

    def image(self) -> np.ndarray:
        head = b"--edge-tracker-picture\r\nContent-Type: image/jpeg\r\n\r\n"
        if not self._begun:
            assert self.file.read(len(head)) == head
        self._begun = True
        data = bytearray()
        while not data.endswith(b"\r\n" + head):
            line = self.file.readline()
            assert line, "the stream has ended"
            data += line
        data = data.removesuffix(b"\r\n" + head)
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def encoded(monkeypatch):
    """The numbers of the frames that were encoded."""
    numbers = []

    def encode(frame, tracks, annotator):
        numbers.append(frame.index)
        return real(frame, tracks, annotator)

    real = camera_image.encode_jpeg
    monkeypatch.setattr(camera_image, "encode_jpeg", encode)
    return numbers


# ---- pages, figures --------------------------------------------------------------------------------------------------


def test_page_needs_nothing_from_elsewhere():
    with serving() as server:
        status, headers, page = ask(server, "/")
        assert status == 200
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert headers["x-content-type-options"] == "nosniff"
        links = re.findall(r'(?:href|src)="([^"]+)"', page.decode())
        assert set(links) >= {"/page.css", "/page.js"}
        for link in links:
            assert link.startswith("/")
            assert ask(server, link)[0] == 200, link
        assert b"style=" not in page
        assert b"<script>" not in page


def test_status_and_tracks():
    with serving() as server:
        assert json.loads(ask(server, "/api/tracks")[2]) == {"yard": None, "gate": None}
        yard = server._stats.cameras["yard"]
        yard.frames, yard.tracks, yard.active, yard.problem = 3, 2, 2, "slow"
        yard.totals = {"door": {"entries": 1.0}}
        yard.stages["detect"].observe(0.25)
        tracks = FrameTracks(
            np.array([7, 8]),
            np.array([[10, 20, 30.004, 50.5], [-5, -6, 15, 34]]),
            np.array([0, -1]),
            np.array([0.91234, np.nan]),
            ("person",),
            zones=(("door",), ()),
        )
        server.show("yard", Frame(3, 0.2, image_of(9), 1000.5), tracks)
        found = json.loads(ask(server, "/api/tracks")[2])["yard"]
        assert (found["frame"], found["time"], found["wall"]) == (3, 0.2, 1000.5)
        assert found["tracks"] == [
            {
                "id": 7,
                "class": "person",
                "class_id": 0,
                "confidence": 0.9123,
                "box": [10, 20, 20, 30.5],
                "zones": ["door"],
            },
            {"id": 8, "class": None, "class_id": None, "confidence": None, "box": [-5, -6, 20, 40], "zones": []},
        ]
        status = json.loads(ask(server, "/api/status")[2])
        assert [camera["name"] for camera in status["cameras"]] == ["yard", "gate"]
        camera = status["cameras"][0]
        assert (camera["objects"], camera["active"], camera["problem"], camera["size"]) == (2, 2, "slow", [160, 120])
        assert camera["stages"]["detect"] == {"count": 1, "total_s": 0.25}
        assert camera["counts"] == {"door": {"entries": 1.0}}
        assert status["mqtt"] is None
        server._stats.mqtt_connected = False
        assert json.loads(ask(server, "/api/status")[2])["mqtt"] == {"connected": False, "queue": 0, "lost": 0}


def test_metrics_over_http():
    with serving() as server:
        server._stats.cameras["gate"].frames = 12
        status, headers, text = ask(server, "/metrics")
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
        families = {family.name: family for family in text_string_to_metric_families(text.decode())}
        assert {s.labels["camera"]: s.value for s in families["edge_tracker_frames"].samples} == {"yard": 0, "gate": 12}
        kind = ask(server, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})[1]
        assert kind["content-type"].startswith("application/openmetrics-text")


def test_ready_when_models_and_cameras_are():
    with serving(stats=Stats({"gate": CameraStats("gate", problem="rtsp://***@10.0.0.2: refused")})) as server:
        status, _, body = ask(server, "/readyz")
        assert status == 503
        assert json.loads(body)["reasons"] == [
            "the models are not loaded yet",
            "yard: not connected yet",
            "gate: rtsp://***@10.0.0.2: refused",
        ]
        assert ask(server, "/healthz")[0] == 200, "a camera that is away is no reason to restart"
        server._stats.ready = True
        server._stats.cameras.update(yard=CameraStats("yard", connected=True), gate=CameraStats("gate", ended=True))
        assert ask(server, "/readyz")[0] == 200, "a file that has ended is not missed"


@pytest.mark.slow
def test_not_healthy_when_frames_come_and_none_is_tracked(monkeypatch):
    with serving() as server:
        yard = server._stats.cameras["yard"]

        def status_later() -> int:
            time.sleep(0.3)
            return ask(server, "/healthz")[0]

        monkeypatch.setattr(health, "STUCK_S", 0.2)
        for _ in range(2):
            yard.frames += 1
            server._stats.cameras["gate"].frames += 1
            assert status_later() == 200
        server._stats.cameras["gate"].connected = False
        assert status_later() == 503
        reasons = json.loads(ask(server, "/healthz")[2])["reasons"]
        assert len(reasons) == 1, "the gate is away, which no restart cures"
        assert re.fullmatch(r"yard: connected, but no frame was tracked for \d+ s", reasons[0])
        server._stats.ready = False  # models are built anew
        assert status_later() == 200
        server._stats.ready, yard.connected = True, False
        assert status_later() == 200
        yard.connected, yard.last_frame = True, time.monotonic() - 3600  # it has just come back
        monkeypatch.setattr(health, "STUCK_S", 60.0)
        assert ask(server, "/healthz")[0] == 200
        monkeypatch.setattr(health, "STUCK_S", 0.2)
        assert status_later() == 503


# ---- images ----------------------------------------------------------------------------------------------------------


def test_snapshot_shows_the_newest_frame_with_its_tracks():
    with serving() as server:
        assert ask(server, "/snapshot/yard.jpg")[0] == 503
        for value in (10, 200):
            server.show("yard", Frame(value, 0.0, image_of(value)), tracks_of(2))
        status, headers, data = ask(server, "/snapshot/yard.jpg")
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (120, 160, 3)
        assert abs(int(image[110, 150, 0]) - 200) < 5
        assert np.abs(image[20:60, 10:60].astype(int) - 200).max() > 50, "boxes are drawn"


def test_large_images_are_scaled_down_with_their_boxes():
    large = np.zeros((1000, 2560, 3), np.uint8)
    tracks = FrameTracks(np.array([1]), np.array([[2000.0, 400, 2400, 800]]), np.array([-1]), np.array([1.0]))
    data = camera_image.encode_jpeg(Frame(1, 0.0, large), tracks, Annotator())
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (500, 1280, 3)
    rows, columns = np.nonzero(image.max(axis=2) > 100)
    assert (columns.min(), columns.max()) == (pytest.approx(1000, abs=3), pytest.approx(1200, abs=3))
    assert rows.max() == pytest.approx(400, abs=3)


def test_nothing_is_encoded_while_nobody_watches(encoded, monkeypatch):
    monkeypatch.setattr(mjpeg, "REPEAT_S", 1e9)
    with serving() as server:
        for index in range(1, 51):
            server.show("yard", Frame(index, 0.0, image_of(index)), tracks_of(1))
        ask(server, "/api/status")
        ask(server, "/api/tracks")
        ask(server, "/metrics")
        assert encoded == []
        ask(server, "/snapshot/yard.jpg")
        assert encoded == [50]
        with closing(Viewer(server)) as viewer:
            viewer.head()
            viewer.image()
        wait_for(lambda: server._viewers.count == 0)
        server.show("yard", Frame(51, 0.0, image_of(51)), tracks_of(1))
        ask(server, "/api/status")
        assert encoded == [50], "the same frame is not encoded twice, and none after the viewer has gone"


def test_two_viewers_share_images_and_each_frame_is_encoded_once(encoded, monkeypatch):
    monkeypatch.setattr(mjpeg, "REPEAT_S", 1e9)
    with serving() as server, closing(Viewer(server)) as one, closing(Viewer(server)) as other:
        for viewer in (one, other):
            status, headers = viewer.head()
            assert status == 200
            assert headers["content-type"] == "multipart/x-mixed-replace; boundary=edge-tracker-picture"
        for index, value in enumerate((30, 120, 210), 1):
            server.show("yard", Frame(index, 0.0, image_of(value)), tracks_of(0))
            for viewer in (one, other):
                assert abs(int(viewer.image()[60, 80, 0]) - value) < 5
        assert encoded == [1, 2, 3]


def feeding(server, image):
    """A camera that shows `image(index)` fifty times a second."""

    def feed(stop: threading.Event) -> None:
        index = 0
        while not stop.wait(0.02):
            index += 1
            server.show("yard", Frame(index, 0.0, image(index)), tracks_of(1))

    return meanwhile(feed)


def test_opencv_reads_the_stream():
    """As other programs would, by FFmpeg."""
    if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
        pytest.skip("this OpenCV has no FFmpeg")
    with serving() as server, feeding(server, lambda index: image_of(index % 250)):
        capture = cv2.VideoCapture(f"http://127.0.0.1:{server.address[1]}/stream/yard", cv2.CAP_FFMPEG)
        try:
            shades = [int(capture.read()[1][60, 80, 0]) for _ in range(4)]
            assert len(set(shades)) == 4
        finally:
            capture.release()


@pytest.mark.slow
def test_a_stalled_viewer_holds_up_no_other_and_is_dropped(monkeypatch):
    monkeypatch.setattr(connections, "TIMEOUT_S", 5.0)
    noise = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), np.uint8)  # 1 MB as JPEG
    with (
        serving() as server,
        feeding(server, lambda index: noise),
        closing(Viewer(server, buffer=4096)) as stalled,
        closing(Viewer(server)) as good,
    ):
        for viewer in (stalled, good):
            assert viewer.head()[0] == 200
        wait_for(lambda: good.image() is not None and server._viewers.count == 1)
        assert good.image().shape == (720, 1280, 3), "the other goes on"


@pytest.mark.slow
def test_closing_does_not_wait_for_a_stalled_viewer(monkeypatch):
    monkeypatch.setattr(connections, "TIMEOUT_S", 1000.0)
    noise = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), np.uint8)
    with serving() as server, closing(Viewer(server, buffer=4096)):
        thread = server._thread
        for index in range(20):
            server.show("yard", Frame(index, 0.0, noise), tracks_of(1))
            time.sleep(0.1)
        wait_for(lambda: any(connection.stalled for connection in server._server.server_state.connections))
        server.close()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        server.show("yard", Frame(99, 0.0, noise), tracks_of(1))  # a pipeline may be a frame late


def test_viewers_are_bounded(monkeypatch):
    monkeypatch.setattr(mjpeg, "MAX_VIEWERS", 2)
    with serving() as server, closing(Viewer(server)) as one, closing(Viewer(server, "gate")) as other:
        for viewer in (one, other):
            assert viewer.head()[0] == 200
        status, headers, body = ask(server, "/stream/yard")
        assert (status, headers["retry-after"]) == (503, "2")
        assert body == b"all 2 streams are in use; try again later\n"
        one.close()
        wait_for(lambda: server._viewers.count == 1)
        with closing(Viewer(server)) as third:
            assert third.head()[0] == 200


def test_a_connection_that_asks_nothing_is_closed(monkeypatch):
    monkeypatch.setattr(connections, "TIMEOUT_S", 0.5)
    with serving() as server:
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
            with socket.create_connection(("127.0.0.1", server.address[1]), timeout=WAIT_S) as idle:
                idle.sendall(sent)
                with suppress(ConnectionResetError):
                    assert idle.recv(100) == b""
        assert ask(server, "/healthz")[0] == 200


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/stream/attic",
        "/snapshot/attic.jpg",
        "/snapshot/yard",
        "/snapshot/..%2f..%2fpyproject.toml.jpg",
        "/snapshot/%2e%2e/%2e%2e/server.py",
        "/../server.py",
        "/page/index.html",
        "/page.js/../../server.py",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/page.js/",
        "/api",
        "/stream/",
        "/stream/yard%00",
        "/docs",
    ],
)
def test_what_is_not_there_is_404(path):
    with serving() as server:
        status, headers, body = ask(server, path)
        assert status == 404
        assert "location" not in headers
        assert b"root:" not in body
        assert b"import" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"])
def test_only_get_and_head(method):
    with serving() as server:
        status, headers, _ = ask(server, "/api/status", method)
        assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_head():
    with serving() as server:
        for path in ("/", "/metrics", "/healthz", "/api/status", "/stream/yard"):
            status, _, body = ask(server, path, "HEAD")
            assert (status, body) == (200, b""), path
        assert server._viewers.count == 0


def test_large_requests_are_refused():
    with serving() as server:
        assert ask(server, "/api/status", body=b"x")[0] == 413
        assert ask(server, "/api/status", headers={"Transfer-Encoding": "chunked"})[0] == 413
        # Which of the two depends on how it comes through the socket.
        assert ask(server, "/" + "x" * 20_000)[0] in (400, 431)
        assert ask(server, "/", headers={"X-Long": "x" * 20_000})[0] in (400, 431)
        assert ask(server, "/")[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:9000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:80", 421),
        ("localhost.evil.example", 421),
        ("", 421),
    ],
)
def test_on_loopback_only_its_own_names_are_answered(host, status):
    """Else a page elsewhere, whose name is made to point to this machine, could read what is served."""
    with serving() as server:
        assert ask(server, "/api/tracks", headers={"Host": host})[0] == status
        assert ask(server, "/healthz", headers={"Host": host})[0] == status


# ---- tokens ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return str(path)


def test_all_but_health_needs_the_token(token_file):
    with serving(host="0.0.0.0", token_file=token_file) as server:
        for path in ("/", "/page.js", "/stream/yard", "/snapshot/yard.jpg", "/metrics", "/readyz", "/api/status",
                     "/api/tracks", "/nothing"):  # fmt: skip
            status, headers, body = ask(server, path)
            assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="edge-tracker"'), path
            assert TOKEN.encode() not in body
        assert ask(server, "/healthz")[0] == 200
        for wrong in ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer \xff\xfe"):
            assert ask(server, "/metrics", headers={"Authorization": wrong})[0] == 401, wrong
        for right in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
            assert ask(server, "/metrics", headers={"Authorization": right, "Host": "cam.example"})[0] == 200


def test_a_browser_gives_the_token_once(token_file):
    with serving(host="0.0.0.0", token_file=token_file) as server:
        status, headers, form = ask(server, "/", headers={"Accept": "text/html"})
        assert status == 401
        assert b'name="token"' in form
        assert ask(server, "/?token=wrong")[0] == 401
        status, headers, body = ask(server, f"/?token={TOKEN}")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie + headers["location"] + body.decode()
        name, _, session = cookie.split(";")[0].partition("=")
        assert ask(server, "/api/status", headers={"Cookie": f"other=1; {name}={session}"})[0] == 200
        assert ask(server, "/api/status", headers={"Cookie": f"{name}={session[:-1]}"})[0] == 401
        assert ask(server, "/api/status", headers={"Cookie": f"{name}={TOKEN}"})[0] == 401
        status, headers, _ = ask(server, f"/metrics?token={TOKEN}", headers={"Cookie": f"{name}={session}"})
        assert (status, headers["location"]) == (303, "/metrics")
        assert ask(server, f"//evil.example/?token={TOKEN}")[1]["location"] == "/evil.example/"
    with serving(host="0.0.0.0", token_file=token_file) as other:  # a restart asks nobody again
        name = f"edge-tracker-{other.address[1]}"
        assert ask(other, "/api/status", headers={"Cookie": f"{name}={session}"})[0] == 200


def test_the_token_is_not_logged(token_file, caplog, capfd):
    with caplog.at_level("DEBUG"), serving(host="0.0.0.0", token_file=token_file) as server:
        ask(server, f"/?token={TOKEN}")
        ask(server, f"/{TOKEN}", headers={"Authorization": f"Bearer {TOKEN}"})
        ask(server, f"/?token={TOKEN}" + "x" * 20_000)
    out, err = capfd.readouterr()
    assert TOKEN not in out + err + caplog.text
    assert "live page: http://0.0.0.0:" in caplog.text


def test_a_token_guards_loopback_too(monkeypatch):
    monkeypatch.setenv("TOKEN_OF_TEST", TOKEN)
    with serving(token_env="TOKEN_OF_TEST") as server:
        assert ask(server, "/api/status")[0] == 401
        assert ask(server, "/api/status", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200


@pytest.mark.parametrize(
    ("config", "content", "message"),
    [
        ({}, None, r"server\.token_file: missing; server\.host 0\.0\.0\.0 can be reached from other machines"),
        ({"token_env": "NO_SUCH"}, None, r"server\.token_env: the environment variable NO_SUCH is not set, or empty"),
        ({"token_file": "F"}, None, r"server\.token_file: .*F: cannot be read: No such file"),
        ({"token_file": "F"}, b" \n", r"server\.token_file: .*F: is empty"),
        ({"token_file": "F"}, b"fifteen letters", r"server\.token_file: the token may contain only ASCII letters"),
        ({"token_file": "F"}, b"fifteen-letters", r"server\.token_file: the token has 15 characters; it needs"),
        ({"token_file": "F"}, b"\xff" * 20, r"server\.token_file: .*F: is not text"),
        ({"token_file": "F"}, b"x" * 5000, r"server\.token_file: .*F: is longer than 4096 bytes"),
        ({"token_file": "F", "token_env": "E"}, b"x" * 20, r"server\.token_file: .*F: is given as well as server"),
        ({"token_file": "."}, None, r"server\.token_file: .*: cannot be read: Is a directory"),
    ],
)  # fmt: skip
def test_a_token_that_will_not_do(tmp_path, config, content, message):
    if content is not None:
        (tmp_path / "F").write_bytes(content)
    if "token_file" in config:
        config = {**config, "token_file": str(tmp_path / config["token_file"])}
    with pytest.raises(ConfigError, match=message) as raised:
        LiveServer(ServerConfig(host="0.0.0.0", **config), Stats(), [])
    assert "\n" not in str(raised.value)


# ---- start and end ---------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken():
    with serving() as server:
        port = server.address[1]
        with pytest.raises(
            OutputError, match=rf"^server\.port: cannot listen on port {port} of 127\.0\.0\.1: .* in use"
        ):
            LiveServer(ServerConfig(port=port), Stats(), []).start()
    again = LiveServer(ServerConfig(port=port), Stats(), [])
    again.start()  # at once after the other was closed
    assert ask(again, "/healthz")[0] == 200
    again.close()
    again.close()


def test_a_host_that_is_none():
    with pytest.raises(ConfigError, match=r"^server\.host: no-such-host\.invalid is not an address of this machine"):
        LiveServer(ServerConfig(host="no-such-host.invalid"), Stats(), [])


def test_ipv6_loopback():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with (
        serving(host="::1") as server,
        closing(http.client.HTTPConnection("::1", server.address[1], timeout=WAIT_S)) as connection,
    ):
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200


def test_close_without_start():
    LiveServer(ServerConfig(port=0), Stats(), ["yard"]).close()


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("edge_tracker.app.outputs.live")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.h11_impl", None)
    with pytest.raises(ConfigError, match=r"^server: .* is missing .*pip install 'edge-tracker\[server\]'"):
        importlib.import_module("edge_tracker.app.outputs.live.access")
