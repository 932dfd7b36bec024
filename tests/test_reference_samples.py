"""The examples in deep-sort-realtime's documentation work with only the import line changed.

The texts and programs are ours; each does what a sample does. Those of the default embedder need its exported model.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import helper
from scipy.spatial.distance import cosine

from edge_tracker import Clip_Embedder, MobileNetv2_Embedder, TorchReID_Embedder, Track
from edge_tracker import EdgeDeepSort as DeepSort
from edge_tracker.embedding.models import KNOWN
from tests.graphs import save_graph

RNG = np.random.default_rng(0)


@pytest.fixture
def mobilenet(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default embedder can be found by its name."""
    if not (engines / "mobilenetv2.onnx").is_file():
        pytest.skip("needs engines/mobilenetv2.onnx: run `make export`")
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(engines))


@pytest.fixture
def random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for all networks that `make export` makes only on demand: their sizes, but random weights."""
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(tmp_path))
    for name, known in KNOWN.items():
        nodes = [
            helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["features"]),
        ]
        weights = RNG.normal(size=(3, known.dimension)).astype(np.float32)
        save_graph(
            tmp_path / f"{name}.onnx",
            nodes,
            {"images": ("float32", ["batch", 3, known.height, known.width])},
            {"features": ("float32", ["batch", known.dimension])},
            {"weights": weights},
        )


def noise(height: int = 240, width: int = 320) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.usefixtures("mobilenet")
def test_construction() -> None:
    assert DeepSort(max_age=30).embedder.dimension == 1280
    tracker = DeepSort(
        max_iou_distance=0.7,
        max_age=30,
        n_init=3,
        nms_max_overlap=1.0,
        max_cosine_distance=0.2,
        nn_budget=100,
        gating_only_position=False,
        override_track_class=None,
        embedder="mobilenet",
        half=True,
        bgr=True,
        embedder_gpu=True,
        embedder_model_name=None,
        embedder_wts=None,
        polygon=False,
        today=datetime.now().date(),
    )
    assert tracker.tracker.tracks == []


@pytest.mark.usefixtures("mobilenet")
def test_a_video(demo_video: Path) -> None:
    tracker = DeepSort(max_age=5, embedder="mobilenet", embedder_gpu=False)
    capture = cv2.VideoCapture(str(demo_video))
    confirmed = []
    for _ in range(5):
        read, frame = capture.read()
        assert read
        raw_detections = [
            ([120, 80, 60, 120], 0.92, "person"),
            ([300, 150, 80, 160], 0.85, "person"),
            ([500, 200, 40, 80], 0.70, "car"),
        ]
        tracks = tracker.update_tracks(raw_detections, frame=frame)
        for track in tracks:
            if not track.is_confirmed():
                continue
            left, top, right, bottom = (int(v) for v in track.to_ltrb())
            label = f"ID:{track.track_id} {track.get_det_class()} {track.get_det_conf():.2f}"
            cv2.rectangle(frame, (left, top), (right, bottom), (0, 255, 0), 2)
            cv2.putText(frame, label, (left, top - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 255, 0), 1)
            confirmed.append((label, left, top))
    capture.release()
    assert confirmed[:3] == [("ID:1 person 0.92", 120, 80), ("ID:2 person 0.85", 300, 150), ("ID:3 car 0.70", 500, 200)]
    assert len(confirmed) == 9


def test_features_of_ones_own() -> None:
    tracker = DeepSort(max_age=10, embedder=None)
    raw_detections = [([50, 30, 80, 160], 0.91, "person"), ([200, 60, 70, 150], 0.88, "person")]
    features = [RNG.random(512).astype(np.float32) for _ in raw_detections]
    for _ in range(3):
        tracks = tracker.update_tracks(raw_detections, embeds=features)
    boxes = {track.track_id: track.to_ltrb() for track in tracks if track.is_confirmed()}
    np.testing.assert_allclose(boxes["1"], [50, 30, 130, 190])
    np.testing.assert_allclose(boxes["2"], [200, 60, 270, 210])


@pytest.mark.usefixtures("mobilenet")
def test_polygons() -> None:
    tracker = DeepSort(max_age=10, polygon=True, embedder="mobilenet", embedder_gpu=False)
    frame = noise(300, 400)
    polygons = [
        [100, 100, 150, 80, 200, 120, 160, 180, 110, 170],
        [300, 200, 360, 195, 370, 260, 295, 265],
    ]
    for _ in range(3):
        tracks = tracker.update_tracks([polygons, ["person", "car"], [0.89, 0.76]], frame=frame)
    assert [track.is_confirmed() for track in tracks] == [True, True]
    assert [track.get_det_supplementary() for track in tracks] == polygons
    assert [track.get_det_class() for track in tracks] == ["person", "car"]
    np.testing.assert_allclose(tracks[0].to_ltrb(), [100, 80, 201, 181])  # the last pixel included


@pytest.mark.usefixtures("mobilenet")
def test_supplementary_data() -> None:
    tracker = DeepSort(max_age=10, embedder="mobilenet", embedder_gpu=False)
    frame = np.zeros((240, 320, 3), dtype=np.uint8)
    raw_detections = [([50, 30, 80, 160], 0.91, "person"), ([200, 60, 70, 150], 0.78, "person")]
    others = [{"reid_score": 0.95, "zone": "entry"}, {"reid_score": 0.80, "zone": "exit"}]
    tracks = tracker.update_tracks(raw_detections, frame=frame, others=others)
    assert [track.get_det_supplementary()["zone"] for track in tracks] == ["entry", "exit"]
    for track in tracker.update_tracks([], frame=frame):
        assert track.get_det_supplementary() is None


@pytest.mark.usefixtures("mobilenet")
def test_instance_masks() -> None:
    frame, other_frame = noise(300, 300), noise(300, 300)
    mask = np.zeros((300, 300), dtype=bool)
    mask[60:250, 110:200] = True
    other_frame[mask] = frame[mask]  # the same object before another background

    def feature(frame: np.ndarray, masks: list | None) -> np.ndarray:
        tracker = DeepSort(max_age=10, embedder="mobilenet", embedder_gpu=False)
        (track,) = tracker.update_tracks([([100, 50, 120, 200], 0.90, "person")], frame=frame, instance_masks=masks)
        assert track.get_instance_mask() is (mask if masks else None)
        return track.get_feature()

    assert cosine(feature(frame, [mask]), feature(other_frame, [mask])) < 1e-6
    assert cosine(feature(frame, None), feature(other_frame, None)) > 1e-5


def test_boxes() -> None:
    tracker = DeepSort(max_age=10, embedder=None)
    for left in (10, 14, 18, 22):
        (track,) = tracker.update_tracks([([left, 20, 30, 60], 0.9, "person")], embeds=[np.ones(8)])
    predicted = track.to_ltrb()
    np.testing.assert_allclose(predicted[2:] - predicted[:2], track.to_ltwh()[2:])
    np.testing.assert_allclose(track.to_ltrb(orig=True), [22, 20, 52, 80])
    np.testing.assert_allclose(track.to_ltwh(orig=True), [22, 20, 30, 60])
    left, top, right, bottom = track.to_ltrb(orig=True, orig_strict=True)
    assert (left, top, right, bottom) == (22, 20, 52, 80)
    (track,) = tracker.update_tracks([], embeds=[])
    np.testing.assert_array_equal(track.to_ltrb(orig=True), track.to_ltrb())
    assert track.to_ltrb(orig=True, orig_strict=True) is None


@pytest.mark.usefixtures("mobilenet")
def test_what_a_track_tells() -> None:
    tracker = DeepSort(max_age=5, embedder="mobilenet", embedder_gpu=False)
    frame = noise()
    detections = [([10, 10, 50, 80], 0.95, "person"), ([200, 100, 60, 90], 0.80, "bicycle")]
    tracks = tracker.update_tracks(detections, frame=frame)
    for track, (_, confidence, det_class) in zip(tracks, detections, strict=True):
        assert (track.is_tentative(), track.is_confirmed(), track.is_deleted()) == (True, False, False)
        assert isinstance(track.track_id, str)
        assert (track.hits, track.age, track.time_since_update) == (1, 1, 0)
        assert (track.get_det_class(), track.get_det_conf()) == (det_class, confidence)
        assert track.get_instance_mask() is track.get_det_supplementary() is None
        assert track.get_feature().shape == (1280,)


class DwellingTrack(Track):
    """Counts the frames that it spends inside of an area."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.frames_inside = 0

    def count_inside(self, area: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = self.to_ltrb()
        inside = left >= area[0] and top >= area[1] and right <= area[2] and bottom <= area[3]
        self.frames_inside += inside
        return inside


@pytest.mark.usefixtures("mobilenet")
def test_a_track_class_of_ones_own() -> None:
    tracker = DeepSort(max_age=30, override_track_class=DwellingTrack, embedder_gpu=False)
    frame = np.zeros((400, 500, 3), dtype=np.uint8)
    for _ in range(10):
        for track in tracker.update_tracks([([150, 120, 80, 160], 0.92, "person")], frame=frame):
            if track.is_confirmed():
                assert track.count_inside((100, 100, 500, 400))
    assert track.frames_inside == 8


@pytest.mark.usefixtures("mobilenet")
def test_daily_ids() -> None:
    today = datetime.now().date()
    tracker = DeepSort(max_age=30, nn_budget=100, today=today, embedder_gpu=False)
    detections = [([0, 0, 50, 50], 0.9, "person"), ([100, 100, 50, 50], 0.85, "person")]
    tracks = tracker.update_tracks(detections, frame=noise(), today=today)
    assert [track.track_id for track in tracks] == [f"{today}_1", f"{today}_2"]


@pytest.mark.usefixtures("mobilenet")
def test_delete_all_tracks() -> None:
    tracker = DeepSort(max_age=10, embedder_gpu=False)
    frame = noise()
    tracker.update_tracks([([10, 10, 50, 80], 0.9, "person")], frame=frame)
    assert len(tracker.tracker.tracks) == 1
    tracker.delete_all_tracks()
    assert len(tracker.tracker.tracks) == 0
    tracks = tracker.update_tracks([([10, 10, 50, 80], 0.9, "person")], frame=frame)
    assert tracks[0].track_id == "1"


@pytest.mark.usefixtures("mobilenet")
def test_the_default_embedder_by_itself() -> None:
    embedder = MobileNetv2_Embedder(half=False, max_batch_size=16, bgr=True, gpu=False)
    red = np.zeros((90, 60, 3), dtype=np.uint8)
    cv2.circle(red, (30, 45), 25, (0, 0, 255), -1)
    apple, stone = cv2.GaussianBlur(red, (5, 5), 0), noise(70, 80)
    features = embedder.predict([apple, stone])
    assert [feature.shape for feature in features] == [(1280,), (1280,)]
    assert 0.2 < cosine(features[0], features[1]) < 1
    # Any number of images: more than a batch, and none.
    many = embedder.predict([apple, stone] * 10)
    assert len(many) == 20
    np.testing.assert_allclose(many[-1], features[1], rtol=1e-3, atol=1e-4)
    assert embedder.predict([]) == []


@pytest.mark.usefixtures("random_weights")
def test_torchreid() -> None:
    tracker = DeepSort(
        max_age=30,
        embedder="torchreid",
        embedder_model_name="osnet_ain_x1_0",
        embedder_wts=None,
        embedder_gpu=False,
        bgr=True,
    )
    frame = noise()
    detections = [([0, 0, frame.shape[1] // 2, frame.shape[0]], 0.9, "person")]
    (track,) = tracker.update_tracks(detections, frame=frame)
    assert track.get_feature().shape == (512,)
    assert TorchReID_Embedder(gpu=False).predict([frame])[0].shape == (512,)


CLIP_DIMENSIONS = {"RN50": 1024, "RN101": 512, "RN50x4": 640, "RN50x16": 768, "ViT-B/32": 512, "ViT-B/16": 512}


@pytest.mark.usefixtures("random_weights")
@pytest.mark.parametrize("network", CLIP_DIMENSIONS)
def test_clip(network: str) -> None:
    tracker = DeepSort(max_age=30, embedder=f"clip_{network}", embedder_wts=None, embedder_gpu=False, bgr=True)
    frame = noise()
    detections = [([50, 50, 100, 150], 0.88, "cat"), ([200, 100, 80, 120], 0.79, "dog")]
    for _ in range(3):
        tracks = tracker.update_tracks(detections, frame=frame)
    assert [(track.track_id, track.get_det_class()) for track in tracks if track.is_confirmed()] == [
        ("1", "cat"),
        ("2", "dog"),
    ]
    dimension = CLIP_DIMENSIONS[network]
    assert tracks[0].get_feature().shape == (dimension,)
    assert Clip_Embedder(model_name=network, gpu=False).predict([frame])[0].shape == (dimension,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("embedder", "file", "dimension"),
    [("torchreid", "osnet_ain_x1_0", 512), ("clip_RN50", "clip_RN50", 1024), ("clip_ViT-B/32", "clip_ViT-B-32", 512)],
)
def test_the_exported_networks_themselves(
    engines: Path, monkeypatch: pytest.MonkeyPatch, embedder: str, file: str, dimension: int
) -> None:
    if not (engines / f"{file}.onnx").is_file():
        pytest.skip(f"needs engines/{file}.onnx: run `make export MODELS={file}`")
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(engines))
    tracker = DeepSort(embedder=embedder, embedder_gpu=False)
    (track,) = tracker.update_tracks([([50, 50, 100, 150], 0.9, "person")], frame=noise())
    assert track.get_feature().shape == (dimension,)
