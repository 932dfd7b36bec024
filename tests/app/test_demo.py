"""The main job: the demo's configuration on its real video, with the real models, against ground truth."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_tracker.detection.detector import Detector
from tests.scoring import average_precision, read_mot, score_tracks

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 795

# Runs the command line where torch cannot be imported, and leaves its peak memory in a file. VmHWM, not getrusage: the
# latter counts the process that this one was forked from.
SCRIPT = """
import sys
from pathlib import Path

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "onnx"):
            raise ImportError(f"{name} is not wanted at run time")

sys.meta_path.insert(0, NoTorch())
from edge_tracker.cli import main

code = main(sys.argv[2:])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
Path(sys.argv[1]).write_text(peak)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def truth(shared_data):
    return read_mot(shared_data / "mot15/PETS09-S2L1/gt/gt.txt", ground_truth=True)


@pytest.fixture(scope="module")
def demo(engines, demo_video, tmp_path_factory):
    """The demo, run: its folder of results and its summary."""
    folder = tmp_path_factory.mktemp("demo")
    summary = run_demo(folder, engines, demo_video)
    return folder, summary


def run_demo(folder: Path, engines: Path, video: Path, *arguments: str, **environment: str) -> str:
    outputs = {"mot": "tracks.txt", "jsonl": "tracks.jsonl", "video": "annotated.mp4"}
    sets = [part for key, name in outputs.items() for part in ("--set", f"outputs.{key}={folder / name}")]
    config = ["--config", str(ROOT / "configs/demo.yaml"), "--source", str(video), *sets, *arguments]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "peak"), *config],
        env={**os.environ, "EDGE_TRACKER_ENGINES": str(engines), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def peak_mib(folder: Path) -> float:
    return int((folder / "peak").read_text().split()[1]) / 1024


@pytest.fixture(scope="module")
def detections(engines, demo_video):
    """All detections of the demo's detector, down to the lowest confidence, in the form of `read_mot`."""
    detector = Detector(engines / "yolov3-tiny.onnx", confidence=0.01, classes=["person"], device="cpu")
    capture, found = cv2.VideoCapture(str(demo_video)), {}
    for frame in range(1, FRAMES + 1):
        ok, image = capture.read()
        assert ok
        objects = detector.detect(image)
        found[frame] = (np.full(len(objects), -1), objects.ltwh.astype(float), objects.confidence.astype(float))
    detector.close()
    return found


@pytest.mark.slow
def test_summary(demo):
    folder, summary = demo
    assert re.search(r"^frames +795$", summary, re.M)
    assert 20 <= int(re.search(r"^tracks +(\d+)$", summary, re.M).group(1)) <= 80
    assert re.search(r"^speed +\d+\.\d frames per second$", summary, re.M)
    for stage in ("read", "detect", "embed", "track", "write"):
        assert re.search(rf"{stage} \d+\.\d\d", summary)
    for name in ("tracks.txt", "tracks.jsonl", "annotated.mp4"):
        assert str(folder / name) in summary


@pytest.mark.slow
def test_the_three_results_tell_the_same(demo):
    folder, summary = demo
    rows = read_mot(folder / "tracks.txt")
    records = [json.loads(line) for line in (folder / "tracks.jsonl").read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(1, FRAMES + 1))
    assert records[-1]["time"] == pytest.approx(79.4)
    for record in records:
        ids, boxes, confidence = rows.get(record["frame"], ([], [], []))
        assert [track["id"] for track in record["tracks"]] == list(ids)
        assert [track["box"] for track in record["tracks"]] == [list(box) for box in boxes]
        assert [track["confidence"] for track in record["tracks"]] == list(confidence)
        assert {track["class"] for track in record["tracks"]} <= {"person"}
    identities = {int(i) for ids, _, _ in rows.values() for i in ids}
    assert int(re.search(r"^tracks +(\d+)$", summary, re.M).group(1)) == len(identities)

    capture = cv2.VideoCapture(str(folder / "annotated.mp4"))
    assert sum(1 for _ in iter(capture.grab, False)) == FRAMES


@pytest.mark.slow
def test_peak_memory_without_torch(demo):
    assert peak_mib(demo[0]) < 500


@pytest.mark.slow
def test_peak_memory_of_the_very_first_run(engines, demo_video, tmp_path):
    """The one that compiles the tracker, too."""
    run_demo(tmp_path, engines, demo_video, "--max-frames", "30", NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert any((tmp_path / "cache").rglob("phases.step-*.nbi"))
    assert peak_mib(tmp_path) < 500


@pytest.mark.slow
def test_the_detector_finds_the_people(detections, truth):
    # 0.81; with the wrong anchors of the second head it is 0.00.
    assert average_precision(detections, truth) >= 0.78


@pytest.mark.slow
def test_the_tracks_are_good(demo, truth):
    scores = score_tracks(read_mot(demo[0] / "tracks.txt"), truth, FRAMES)
    assert scores["MOTA"] >= 0.62, scores
    assert scores["IDF1"] >= 0.52, scores


@pytest.mark.slow
def test_exact_tracks_are_no_worse_than_deep_sort_realtimes(engines, demo_video, tmp_path, detections, truth):
    """The reference on the same detections, with constant embeddings: motion and overlap alone."""
    run_demo(tmp_path, engines, demo_video, "--set", "tracker.method=deepsort", "--set", "outputs.video=null")
    deep_sort_realtime = pytest.importorskip("deep_sort_realtime.deepsort_tracker")
    reference = deep_sort_realtime.DeepSort(embedder=None, nn_budget=1)  # of equal features one will do
    theirs = {}
    for frame, (_, boxes, confidence) in detections.items():
        raw = [(box.tolist(), float(c), "person") for box, c in zip(boxes, confidence, strict=True) if c >= 0.3]
        tracks = reference.update_tracks(raw, embeds=[np.ones(8, np.float32)] * len(raw))
        shown = [t for t in tracks if t.is_confirmed() and t.time_since_update == 0]
        if shown:
            ids = np.array([int(t.track_id) for t in shown])
            theirs[frame] = (ids, np.array([t.to_ltwh() for t in shown]), np.ones(len(shown)))
    reference_scores = score_tracks(theirs, truth, FRAMES)
    ours = score_tracks(read_mot(tmp_path / "tracks.txt"), truth, FRAMES)
    assert reference_scores["MOTA"] > 0.6, "the comparison is fair"
    assert ours["MOTA"] >= reference_scores["MOTA"], (ours, reference_scores)
    assert ours["IDF1"] >= reference_scores["IDF1"], (ours, reference_scores)
