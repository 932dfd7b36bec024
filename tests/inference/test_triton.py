"""Models on a real Triton server: what it says of them, and what happens when it does not answer."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="needs the extra 'triton'")

from edge_tracker.detection import Detector
from edge_tracker.embedding import Embedder
from edge_tracker.errors import ConfigError, InputError, ModelError, ServerError
from edge_tracker.inference import load_model
from edge_tracker.inference.manifest import METADATA_KEY, ImageInput, ModelManifest
from edge_tracker.inference.triton.address import Address
from edge_tracker.inference.triton.client import IN_FLIGHT
from export.triton import write_model
from tests.conftest import ROOT
from tests.graphs import mean_colour
from tests.triton.scripted import Scripted, serving
from tests.triton.server import TritonServer
from tests.waiting import COMPILING_S, free_port, wait_for

DEADLINE_MS = 1000  # of a server that does not answer
ENOUGH_MS = 60_000  # of one that does
SOON_S = 10.0  # at once, or after DEADLINE_MS, on a machine that others use, too


def manifest(name: str = "colour", dimension: int = 3, size: tuple[int, int] = (8, 4), **more) -> ModelManifest:
    image = ImageInput("images", *size, layout="NHWC", color="RGB")
    return ModelManifest(name, "embedder", "mean colour", image, "features", dimension=dimension, **more)


def colour(folder: Path, name: str = "colour", described: ModelManifest | None = None, **options) -> Path:
    """A small embedder that takes uint8, with a manifest that says so if one is given."""
    folder.mkdir(exist_ok=True)
    metadata = {} if described is None else {METADATA_KEY: described.to_json()}
    return mean_colour(folder / f"{name}.onnx", layout="NHWC", dtype="uint8", metadata=metadata, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("triton")


@pytest.fixture(scope="module")
def server(place) -> Iterator[TritonServer]:
    """A server with three models, written as `export --triton` writes them."""
    models = place / "models"
    write_model(place / "repository", "colour", colour(models, described=manifest()))
    write_model(place / "repository", "plain", colour(models, "plain"))
    write_model(place / "repository", "four", colour(models, "four", batch=4))
    running = TritonServer(place / "repository", place)
    running.start()
    yield running
    running.close()


@pytest.fixture
def crops() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (8 + k, 4 + k, 3), np.uint8) for k in range(50)]


def features(embedder: Embedder, images: list[np.ndarray]) -> np.ndarray:
    return np.stack(embedder.predict(images))


def timed(embedder: Embedder, images: list[np.ndarray]) -> tuple[np.ndarray, float]:
    start = time.monotonic()
    return features(embedder, images), time.monotonic() - start


@pytest.mark.parametrize("name", ["colour", "plain", "four"])
def test_served_as_from_a_file(server, place, crops, name):
    """With a manifest, without one, and of fixed batch size."""
    local = Embedder(place / f"models/{name}.onnx", device="cpu")
    served = Embedder(server.uri(name), batch=4, deadline_ms=ENOUGH_MS)
    assert served.dimension == local.dimension == 3
    np.testing.assert_array_equal(features(served, crops), features(local, crops))
    frame, boxes = np.arange(60 * 50 * 3).reshape(60, 50, 3).astype(np.uint8), [[3, 4, 20, 30], [-9, -9, 5, 5]]
    np.testing.assert_array_equal(served.embed(frame, boxes), local.embed(frame, boxes))
    halves = [frame, frame[::-1].copy()]
    for ours, theirs in zip(served.embed_all(halves, [boxes, []]), local.embed_all(halves, [boxes, []]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert served.status.lost == 0
    served.close()
    local.close()


def test_what_the_server_says_of_a_model(server, place):
    served, local = load_model(server.uri("colour")), load_model(place / "models/colour.onnx", device="cpu")
    assert (served.inputs, served.outputs) == (local.inputs, local.outputs)
    assert served.manifest == local.manifest == manifest()
    assert (served.batch_limit, served.device, served.path) == (64, "triton", None)
    assert load_model(server.uri("plain")).manifest is None
    four = load_model(server.uri("four"))
    assert (four.batch_limit, four.inputs[0].shape) == (None, (4, 8, 4, 3))
    version = load_model(server.uri("colour") + "/1")
    assert version.name.endswith("/colour/1")
    for model in (served, four, version):
        model.close()
    with pytest.raises(ServerError, match="four: away"):
        four.run({"images": np.zeros((4, 8, 4, 3), np.uint8)})


def test_batches_on_the_way_are_few_and_come_back_in_order(server):
    model = load_model(server.uri("colour"), deadline_ms=ENOUGH_MS)
    taken = 0

    def batches() -> Iterator[dict[str, np.ndarray]]:
        nonlocal taken
        for taken in range(1, 21):
            yield {"images": np.full((2, 8, 4, 3), taken, np.uint8)}

    for number, outputs in enumerate(model.stream(batches()), 1):
        assert taken <= number + IN_FLIGHT
        np.testing.assert_array_equal(outputs[0], np.full((2, 3), number))
    assert number == 20
    model.close()


def test_a_model_that_is_not_there(server):
    with pytest.raises(ServerError, match=r"triton://127.0.0.1:\d+/nobody: .*unknown model.*'nobody'.*fallback"):
        Embedder(server.uri("nobody"))
    with pytest.raises(ServerError, match=r"colour: no server answers there: .*; start it"):
        load_model(f"triton://127.0.0.1:{free_port()}/colour")
    with pytest.raises(ModelError, match="colour: an embedder, not a detector"):
        Detector(server.uri("colour"))


@pytest.mark.slow
def test_killed_and_started_again(server, crops, caplog):
    embedder = Embedder(server.uri("colour"), batch=4, deadline_ms=ENOUGH_MS)
    status, right = embedder.status, features(embedder, crops)
    assert right.any(axis=1).all()
    server.kill()
    for _ in range(20):
        nothing, seconds = timed(embedder, crops)
        assert not nothing.any()
        assert seconds < SOON_S, "a connection that is gone is known at once"
    assert (status.up, status.outages, status.lost) == (False, 1, 20 * len(crops))
    wait_for(lambda: re.search("no server answers|closed|Broken pipe", status.problem or ""), lambda: status.problem)
    server.start()
    wait_for(lambda: "back after" in caplog.text)
    np.testing.assert_array_equal(features(embedder, crops), right)
    assert (status.outages, status.problem) == (1, None)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [("away (" in line, "back after" in line) for line in told] == [(True, False), (False, True)]
    assert f"{20 * len(crops)} lost so far" in told[1]
    embedder.close()


def test_hung(server, crops, caplog, monkeypatch):
    """All batches of a call share one deadline, and once it has passed nobody waits any more."""
    embedder = Embedder(server.uri("colour"), batch=2, deadline_ms=ENOUGH_MS)
    model, status, right = embedder.model, embedder.status, features(embedder, crops)
    sent = []
    send = model._send
    monkeypatch.setattr(model, "_send", lambda *batch: sent.append(send(*batch)) or sent[-1])
    model.availability.deadline = DEADLINE_MS / 1000
    server.pause()
    try:
        nothing, seconds = timed(embedder, crops)
        on_the_way = sum(call is not None for call in sent)
        nothing_more = features(embedder, crops)
    finally:
        server.resume()
    model.availability.deadline = ENOUGH_MS / 1000
    assert not nothing.any()
    assert not nothing_more.any()
    assert 0 < on_the_way <= IN_FLIGHT
    assert sum(call is not None for call in sent) == on_the_way, "nothing is sent to one that is away"
    assert DEADLINE_MS / 1000 <= seconds < SOON_S
    assert f"away (no answer within {DEADLINE_MS} ms)" in caplog.text
    server.wait_until_up(status)
    np.testing.assert_array_equal(features(embedder, crops), right)
    assert status.outages == 1
    embedder.close()


@pytest.mark.slow
def test_a_fallback_sees_what_the_server_does_not(server, place, crops):
    local = Embedder(place / "models/colour.onnx", device="cpu")
    right = features(local, crops)
    embedder = Embedder(server.uri("colour"), batch=4, deadline_ms=ENOUGH_MS, fallback=local)
    status = embedder.status
    np.testing.assert_array_equal(features(embedder, crops), right)
    assert status.fallback == 0
    server.client.unload_model("colour")
    frame, boxes = np.arange(60 * 50 * 3).reshape(60, 50, 3).astype(np.uint8), np.array([[3, 4, 20, 30], [9, 9, 5, 5]])
    try:
        np.testing.assert_array_equal(features(embedder, crops), right)
        np.testing.assert_array_equal(embedder.embed(frame, boxes), local.embed(frame, boxes))
        masks = np.zeros((2, 60, 50), bool)
        polygons = [[3, 4, 20, 5, 9, 30], [1, 1, 9, 2, 5, 9]]
        np.testing.assert_array_equal(embedder.embed(frame, boxes, masks), local.embed(frame, boxes, masks))
        np.testing.assert_array_equal(
            embedder.embed(frame, boxes, polygons=polygons), local.embed(frame, boxes, polygons=polygons)
        )
        for ours, theirs in zip(
            embedder.embed_all([frame, frame], [boxes[:1], boxes]), local.embed_all([frame] * 2, [boxes[:1], boxes]),
            strict=True,
        ):  # fmt: skip
            np.testing.assert_array_equal(ours, theirs)
        assert (status.up, status.lost) == (False, 0)
        assert status.fallback == len(crops) + 2 + 2 + 2 + 3
    finally:
        server.client.load_model("colour")
    wait_for(lambda: status.up)
    np.testing.assert_array_equal(features(embedder, crops), right)
    assert status.fallback == len(crops) + 9
    embedder.close()


@pytest.mark.slow
def test_another_model_under_the_name_is_refused(server, place, crops, caplog):
    embedder = Embedder(server.uri("colour"), deadline_ms=ENOUGH_MS)
    status, right = embedder.status, features(embedder, crops)
    repository, models = place / "repository", place / "models"
    others = {
        "another shape": (colour(models, "tall", manifest(size=(16, 4)), size=(16, 4)), "another model is served"),
        "another network": (colour(models, "net", manifest(name="other")), "name 'other', not 'colour'"),
    }
    try:
        for source, reason in others.values():
            write_model(repository, "colour", source)
            server.client.load_model("colour")
            server.client.unload_model("plain")  # it is under way when this is done
            features(embedder, crops)
            features(embedder, crops)
            if status.up:  # of the same shape: nobody can tell while it answers
                server.pause()
                embedder.model.availability.deadline = 0.2
                features(embedder, crops)
                server.resume()
                embedder.model.availability.deadline = ENOUGH_MS / 1000
            wait_for(lambda reason=reason: reason in (status.problem or ""))
            assert not features(embedder, crops).any()
    finally:
        write_model(repository, "colour", models / "colour.onnx")
        server.client.load_model("colour")
        server.client.load_model("plain")
    wait_for(lambda: status.up)
    np.testing.assert_array_equal(features(embedder, crops), right)
    refused = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(refused) == len(others), "once for each, not at every try"
    embedder.close()


@pytest.mark.slow
def test_a_server_that_comes_later(server, place, crops):
    """With a fallback the server may be away at the start; another network than the fallback is not used then."""
    server.client.unload_model("colour")
    embedder = Embedder(
        server.uri("colour"), deadline_ms=ENOUGH_MS, fallback=Embedder(place / "models/colour.onnx", device="cpu")
    )
    other = Embedder(
        server.uri("colour"),
        fallback=Embedder(colour(place / "models", "own", manifest(name="own")), device="cpu"),
    )
    assert embedder.dimension == 3
    right = features(embedder, crops)
    assert embedder.status.fallback == len(crops)
    server.client.load_model("colour")
    wait_for(lambda: embedder.status.up)
    np.testing.assert_array_equal(features(embedder, crops), right)
    assert embedder.status.fallback == len(crops)
    wait_for(lambda: "another network: name 'own', not 'colour'" in (other.status.problem or ""))
    np.testing.assert_array_equal(features(other, crops), right)
    assert other.status.fallback == len(crops)
    embedder.close()
    try:  # it was not used, so the right one may still come in its place
        write_model(place / "repository", "colour", place / "models/own.onnx")
        server.client.load_model("colour")
        wait_for(lambda: other.status.up)
        assert other.model.manifest.name == "own"
    finally:
        write_model(place / "repository", "colour", place / "models/colour.onnx")
        server.client.load_model("colour")
    other.close()


def test_a_fallback_of_another_network_is_refused_at_the_start(server, place):
    other = Embedder(colour(place / "models", "third", manifest(source={"sha256": "1"})), device="cpu")
    with pytest.raises(ModelError, match=r"the fallback .*third.onnx is another network: weights' SHA-256 '1', not ''"):
        Embedder(server.uri("colour"), fallback=other)


def test_a_fallback_is_for_a_server_only(place):
    path = colour(place / "models", "alone")
    with pytest.raises(ConfigError, match="not on a server"):
        Embedder(path, device="cpu", fallback=Embedder(path, device="cpu"))


def test_a_frame_that_is_none_is_refused_before_anything_is_sent(server):
    embedder = Embedder(server.uri("colour"))
    with pytest.raises(InputError, match="image 0 must be an array"):
        embedder.predict([None])
    assert embedder.status.up
    embedder.close()


FOUR_AT_ONCE = """
import sys, time
import numpy as np
from edge_tracker.inference import load_model
model = load_model(sys.argv[1], deadline_ms=60000)
print("ready", flush=True)
sys.stdin.readline()
batch = {"images": np.full((8, 224, 224, 3), 9, np.uint8)}
print(sum(len(model.run(batch)[0]) for _ in range(6)))
"""


@pytest.mark.slow
def test_requests_of_four_processes_run_together(server, place, engines):
    """The server's own figures: fewer executions than requests."""
    write_model(place / "repository", "mobilenetv2", engines / "mobilenetv2.onnx")
    server.client.load_model("mobilenetv2")

    def counted(name: str) -> int:
        return int(server.metrics()[f"nv_inference_{name}"].get("mobilenetv2", 0))

    asking = [
        subprocess.Popen(
            [sys.executable, "-c", FOUR_AT_ONCE, server.uri("mobilenetv2")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in asking:
        assert process.stdout.readline() == "ready\n"
    # The server counts after it has answered. Each process has run the model once, on one row, to try it out.
    wait_for(lambda: (counted("request_success"), counted("count")) == (4, 4), "the first requests are not counted")
    before = counted("exec_count")
    for process in asking:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=COMPILING_S)[0] for process in asking] == ["48\n"] * 4
    wait_for(lambda: (counted("request_success"), counted("count")) == (4 + 24, 4 + 192), "they are not counted")
    assert counted("exec_count") - before < 24


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, str]]:
    with serving() as (servicer, address):
        yield servicer, f"triton://{address}/scripted"


@pytest.mark.slow
def test_a_server_too_slow_for_whole_frames_is_left_alone_ever_longer(scripted, crops, monkeypatch):
    servicer, uri = scripted
    servicer.most = 1  # what it is tried out with
    embedder = Embedder(uri, deadline_ms=500)
    pauses, firsts, status = [], [], embedder.status
    monkeypatch.setattr(embedder.model.availability._closed, "wait", pauses.append)  # none is waited for
    for _ in range(6):
        earlier = len(pauses)
        assert not features(embedder, crops[:8]).any()
        wait_for(lambda: status.up)
        firsts.append(pauses[earlier])
    assert [pause / firsts[0] for pause in firsts] == [1, 2, 4, 8, 16, 32]
    assert (status.outages, status.lost) == (6, 48)
    servicer.most = 1000
    embedder.model.availability.deadline = ENOUGH_MS / 1000
    assert features(embedder, crops[:8]).all()
    embedder.close()


@pytest.mark.slow
def test_a_batch_that_is_late_costs_its_own_crops_alone(scripted, crops):
    servicer, uri = scripted
    embedder = Embedder(uri, batch=4, deadline_ms=5000)
    servicer.most = 3
    servicer.asked.clear()
    found = features(embedder, crops[:7])  # a batch of four, which is late, and one of three
    assert not found[:4].any()
    assert found[4:].all()
    assert embedder.status.lost == 4
    assert sorted(servicer.asked[:2]) == [3, 4], "the second was sent before the first was answered"
    embedder.close()


def test_another_version_is_looked_at_before_it_is_used(scripted, crops, caplog):
    servicer, uri = scripted
    embedder = Embedder(uri, deadline_ms=ENOUGH_MS)
    servicer.version = "2"
    assert not features(embedder, crops[:3]).any()
    assert "away (version 2 of the model is served now, and not 1)" in caplog.text
    wait_for(lambda: embedder.status.up)
    assert features(embedder, crops[:3]).all()
    assert embedder.status.outages == 1
    embedder.close()


def test_features_of_another_length_are_refused(scripted, crops):
    """The server leaves the length open here, so it is not known beforehand."""
    servicer, uri = scripted
    embedder = Embedder(uri, deadline_ms=ENOUGH_MS)
    servicer.width = 5
    assert features(embedder, crops[:3]).shape == (3, 3)
    assert embedder.status.outages == 1
    assert embedder.status.lost == 3
    embedder.close()


@pytest.mark.parametrize(
    "text",
    [
        "triton://a/b", "triton://a:0/b", "triton://a:99999/b", "triton://a:1", "triton://a:1/", "triton://a:1/b/c",
        "triton://a:1/b/1/2", "triton://u@a:1/b", "triton://a:1/b?c", "triton:a", "triton:///b", "triton://a b:1/c",
    ],
)  # fmt: skip
def test_wrong_addresses(text):
    with pytest.raises(ConfigError, match="expected triton://HOST:PORT/MODEL"):
        load_model(text)


def test_addresses():
    assert Address.parse("triton://edge-1.lan:8001/clip_ViT-B-32") == Address("edge-1.lan", 8001, "clip_ViT-B-32")
    assert str(Address.parse("triton://[fe80::1]:8001/a/12")) == "triton://[fe80::1]:8001/a/12"


def test_without_the_extra():
    program = """
import sys
sys.modules["tritonclient"] = None
from edge_tracker.embedding import Embedder
from edge_tracker.errors import ConfigError
try:
    Embedder("triton://localhost:8001/a")
except ConfigError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("pip install 'edge-tracker[triton]'")
    assert len(out.splitlines()) == 1


def test_the_client_is_loaded_only_for_a_server(place):
    program = """
import sys
import edge_tracker.app.run.pipeline
from edge_tracker.embedding import Embedder
Embedder(sys.argv[1], device="cpu")
print([name for name in ("tritonclient", "grpc", "google.protobuf") if name in sys.modules])
"""
    path = colour(place / "models", "used")
    out = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
