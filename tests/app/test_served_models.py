"""Runs with models on a real Triton server: as with local ones while it is there, by motion while it is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest

import export.__main__ as export
from edge_tracker import EdgeDeepSort
from edge_tracker.app.config.loading import load_config
from edge_tracker.app.doctor.examination import examine
from edge_tracker.app.doctor.finding import is_ok, to_text
from edge_tracker.app.run.pipeline import Pipeline
from edge_tracker.app.stats import BUCKETS
from edge_tracker.cli import main
from edge_tracker.detection import Detector
from edge_tracker.detection.mot import MotDetections
from edge_tracker.embedding import Embedder
from edge_tracker.errors import ConfigError, ModelError, ServerError
from tests.triton.server import TritonServer
from tests.waiting import free_port, wait_for

pytestmark = pytest.mark.slow

FRAMES = 60
DEADLINE_MS = 20_000  # long, for a machine that others use, too: a call that is answered is answered in time
LONGEST_S = 10.0  # a bucket of the figures of stages: a server that has gone is not waited for


@pytest.fixture(scope="module")
def server(engines, tmp_path_factory) -> Iterator[TritonServer]:
    """The default models, as `make export TRITON=...` leaves them."""
    place = tmp_path_factory.mktemp("served")
    arguments = ["--missing", "--output", str(engines), "--triton", str(place / "repository"), "--quiet"]
    assert export.main(arguments) == 0
    running = TritonServer(place / "repository", place)
    running.start()
    yield running
    running.close()


@pytest.fixture
def configuration(engines, demo_video, tmp_path) -> Callable[..., dict]:
    """The sections of a run: its models' own keys are given, or they are local."""

    def sections(detector: dict | None = None, embedder: dict | None = None) -> dict:
        return {
            "device": "cpu",
            "source": {"uri": str(demo_video)},
            "detector": {"classes": ["person"], **(detector or {"model": str(engines / "yolov3-tiny.onnx")})},
            "embedder": embedder or {"model": str(engines / "mobilenetv2.onnx")},
            "tracker": {"method": "deepsort"},  # embeds whatever is found
            "outputs": {"jsonl": str(tmp_path / "tracks.jsonl")},
        }

    return sections


def tracks(path: Path) -> list[list[tuple]]:
    """Of each frame its tracks: identity and box."""
    frames = [json.loads(line) for line in path.read_text().splitlines()]
    return [[(track["id"], *track["box"]) for track in frame["tracks"]] for frame in frames]


def run(sections: dict) -> tuple[Pipeline, list[list[tuple]]]:
    with Pipeline(load_config(sections)) as pipeline:
        pipeline.run(max_frames=FRAMES)
    return pipeline, tracks(Path(sections["outputs"]["jsonl"]))


class Losing:
    """A detector or an embedder that notes when it saw nothing, and sees nothing on the calls that it is told to."""

    def __init__(self, inner, lose: frozenset[int] = frozenset()) -> None:
        self._inner, self._lose = inner, lose
        self.calls, self.lost = 0, set()

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def find(self, frame):
        self.calls += 1
        found = None if self.calls in self._lose else self._inner.find(frame)
        if found is None:
            self.lost.add(self.calls)
        return found

    def embed(self, frame, ltwh, masks=None, polygons=None):
        self.calls += 1
        features = self._inner.embed(frame, ltwh, masks, polygons)
        if self.calls in self._lose:
            features = np.zeros_like(features)
        if len(features) and not features.any():
            self.lost.add(self.calls)
        return features


def run_losing(sections: dict, detections=frozenset(), looks=frozenset(), at=None) -> tuple[Pipeline, Losing, Losing]:
    """A run, with `at` called after each frame with its number."""
    with Pipeline(load_config(sections)) as pipeline:
        (camera,) = pipeline.cameras
        camera._finder = Losing(camera._finder, detections)
        camera._tracker.embedder = Losing(camera._tracker.embedder, looks)
        if at is not None:
            pipeline._audience.append(lambda _, frame, __: at(frame.index, pipeline.summary.stats))
        pipeline.run(max_frames=FRAMES)
        return pipeline, camera._finder, camera._tracker.embedder


def test_the_demo_video_gives_the_same_tracks(server, configuration):
    """Detection and appearance through the server, beside both here."""
    served = {"model": server.uri("yolov3-tiny"), "deadline_ms": DEADLINE_MS}
    looks = {"model": server.uri("mobilenetv2"), "deadline_ms": DEADLINE_MS}
    pipeline, ours = run(configuration(served, looks))
    assert pipeline.summary.frames == FRAMES
    assert "server outages" not in str(pipeline.summary)
    _, theirs = run(configuration())
    assert sum(map(len, theirs)) > 200
    assert [[track[0] for track in frame] for frame in ours] == [[track[0] for track in frame] for frame in theirs]
    np.testing.assert_allclose(list(chain(*ours)), list(chain(*theirs)), atol=0.1)


def test_a_server_killed_and_started_again_in_mid_run(server, configuration, caplog):
    sections = configuration(
        {"model": server.uri("yolov3-tiny"), "deadline_ms": DEADLINE_MS},
        {"model": server.uri("mobilenetv2"), "deadline_ms": DEADLINE_MS},
    )

    def at(frame: int, stats) -> None:
        if frame == 20:
            server.kill()
        if frame == 40:
            server.start()
            wait_for(lambda: all(status.up for status in stats.servers.values()))

    pipeline, finder, embedder = run_losing(sections, at=at)
    ours, camera = tracks(Path(sections["outputs"]["jsonl"])), pipeline.summary.cameras[0]
    servers = pipeline.summary.stats.servers

    assert camera.frames == FRAMES
    for stage in ("detect", "embed"):
        assert sum(camera.stages[stage].counts[BUCKETS.index(LONGEST_S) + 1 :]) == 0, f"{stage} waited for longer"
    # Frames are detected ahead of the one that has just been tracked.
    assert finder.lost == set(range(min(finder.lost), max(finder.lost) + 1))
    assert 15 <= len(finder.lost) == servers["detector"].lost <= 30
    assert max(finder.lost) < FRAMES - 5, "it is used again"
    assert servers["detector"].outages == 1
    assert servers["embedder"].outages <= 1, "it is asked only of what was detected"
    assert camera.embedded > 0
    summary = str(pipeline.summary)
    assert f"detector    server outages: 1, {len(finder.lost)} frames without detection" in summary
    away = [record.getMessage() for record in caplog.records if "away (" in record.getMessage()]
    assert len(away) == sum(server.outages for server in servers.values()), "once for each outage, not for each frame"

    # The same frames unseen by local models: the same identities, to the end.
    same = configuration()
    run_losing(same, frozenset(finder.lost), frozenset(embedder.lost))
    theirs = tracks(Path(same["outputs"]["jsonl"]))
    assert [[track[0] for track in frame] for frame in ours] == [[track[0] for track in frame] for frame in theirs]
    before, after = ({track[0] for track in ours[frame]} for frame in (min(finder.lost) - 2, max(finder.lost) + 5))
    assert before & after, "somebody is still who he was"


def test_an_app_s_tracker_with_a_server_that_hangs(server, engines, demo_video, shared_data):
    """`EdgeDeepSort(embedder="triton://...")`; meanwhile identities are those that motion alone keeps."""
    found = MotDetections(shared_data / "mot15/PETS09-S2L1/det/det.txt")
    capture = cv2.VideoCapture(str(demo_video))
    frames = [(capture.read()[1], found.detect(index + 1).ltwh) for index in range(40)]

    def follow(tracker: EdgeDeepSort, at: Callable[[int], None] = lambda _: None) -> list[list[int]]:
        ids = []
        for index, (image, ltwh) in enumerate(frames):
            at(index)
            arrays = tracker.update(ltwh, frame=image)
            ids.append(sorted(arrays.ids.tolist()))
        return ids

    def at(index: int) -> None:
        if index == 15:
            server.pause()
            model.availability.deadline = 1.0
        if index == 25:
            server.resume()
            model.availability.deadline = DEADLINE_MS / 1000
            server.wait_until_up(status)

    ours = EdgeDeepSort(embedder=server.uri("mobilenetv2"))
    model, status = ours.embedder.model, ours.embedder.status
    model.availability.deadline = DEADLINE_MS / 1000
    ours.embedder = Losing(ours.embedder)
    try:
        ids = follow(ours, at)
    finally:
        server.resume()
    assert ours.embedder.lost == set(range(16, 26))
    assert status.lost == sum(len(ltwh) for _, ltwh in frames[15:25])
    theirs = EdgeDeepSort(embedder=Losing(Embedder(engines / "mobilenetv2.onnx", device="cpu"), ours.embedder.lost))
    assert follow(theirs) == ids
    ours.embedder.close()


def test_a_fallback_keeps_everything(server, engines, demo_video):
    capture = cv2.VideoCapture(str(demo_video))
    frames = [capture.read()[1] for _ in range(3)]
    local = Detector(engines / "yolov3-tiny.onnx", device="cpu", classes=["person"])
    expected = [local.detect(frame) for frame in frames]
    detector = Detector(server.uri("yolov3-tiny"), classes=["person"], batch=3, deadline_ms=DEADLINE_MS, fallback=local)
    alone = Detector(server.uri("yolov3-tiny"), classes=["person"], batch=3, deadline_ms=DEADLINE_MS)

    def assert_found(found) -> None:
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours.ltwh, theirs.ltwh, atol=0.01)

    assert_found(detector.detect_all(frames))
    server.client.unload_model("yolov3-tiny")
    try:
        assert_found(detector.detect_all(frames))
        assert_found([detector.detect(frame) for frame in frames])
        assert alone.detect_all([*frames, frames[0][:0]])[:3] == [None] * 3
        with pytest.raises(ServerError, match="yolov3-tiny: "):
            alone.detect(frames[0])
        here = Detector(engines / "yolov3-tiny.onnx", device="cpu")
        later = Detector(server.uri("yolov3-tiny"), deadline_ms=DEADLINE_MS, fallback=here)
        assert later.names[0] == "person"
        assert later.detect(frames[0]).names == local.names
    finally:
        server.client.load_model("yolov3-tiny")
    assert (detector.status.fallback, detector.status.lost) == (6, 0)
    assert (alone.status.fallback, alone.status.lost) == (0, 4)
    for again in (detector, alone, later):
        wait_for(lambda again=again: again.status.up)
        again.model.availability.deadline = 20.0
        again.detect(frames[0])
    assert detector.status.fallback == 6
    with pytest.raises(ModelError, match="has other classes"):
        Detector(server.uri("yolov3-tiny"), names=["a"] * 80, fallback=local)
    with pytest.raises(ConfigError, match="not on a server"):
        Detector(engines / "yolov3-tiny.onnx", device="cpu", fallback=local)


def write(folder: Path, sections: dict) -> str:
    path = folder / "cam.yaml"
    path.write_text(json.dumps(sections))
    return str(path)


def test_a_server_that_is_away_at_the_start(configuration, engines, tmp_path, capsys):
    uri = f"triton://127.0.0.1:{free_port()}/mobilenetv2"
    alone = configuration(embedder={"model": uri})
    assert main(["run", "--config", write(tmp_path, alone), "--max-frames", "5"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"edge-tracker: error: embedder.model: {uri}: no server answers there")
    assert "fallback" in error
    assert main(["run", "--config", write(tmp_path, alone), "--check"]) == 0
    findings = examine(load_config(alone))
    assert not is_ok(findings)
    assert "NEEDED: " + uri in to_text(findings)

    helped = configuration(embedder={"model": uri, "fallback": str(engines / "mobilenetv2.onnx")})
    assert is_ok(examine(load_config(helped)))
    capsys.readouterr()
    assert main(["run", "--config", write(tmp_path, helped), "--max-frames", "10"]) == 0
    assert " by the fallback, still unavailable: " in capsys.readouterr().out
    assert main(["run", "--config", write(tmp_path, configuration(
        embedder={"model": uri, "fallback": "nobody"}))]) == 2  # fmt: skip
    assert "error: embedder.fallback: no model named 'nobody'" in capsys.readouterr().err


def test_what_the_commands_say_of_a_server_that_is_there(server, configuration, tmp_path, capsys):
    served = configuration({"model": server.uri("yolov3-tiny")}, {"model": server.uri("mobilenetv2")})
    findings = examine(load_config(served))
    assert is_ok(findings)
    text = to_text(findings)
    assert f"{server.uri('mobilenetv2')}: embedder, fp32, up to 64 at once" in text
    assert f"{server.uri('yolov3-tiny')}: detector, fp32" in text
    assert main(["build", "--config", write(tmp_path, served)]) == 0
    assert capsys.readouterr().out == ""
