"""The embedder: batches, files with and without a manifest, and files that are no embedders."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from onnx import helper

from edge_tracker.embedding import Clip_Embedder, Embedder, MobileNetv2_Embedder, TorchReID_Embedder
from edge_tracker.embedding.embedder import CPU_BATCH
from edge_tracker.embedding.models import CHOICES, CLIP_MEAN, CLIP_STD, KNOWN, model_name, unit_scale
from edge_tracker.errors import ConfigError, InputError, ModelError
from edge_tracker.inference.manifest import METADATA_KEY, ImageInput, ModelManifest
from edge_tracker.inference.onnx import OnnxModel
from tests.graphs import mean_colour, relu, save_graph

FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
COLOURS = [np.full((10, 10, 3), colour, np.uint8) for colour in ((10, 20, 30), (0, 128, 255), (7, 7, 7))]


def bgr_means(path, **arguments):
    """An embedder that gives back the mean colour, as BGR."""
    return mean_colour(path, layout="NHWC", dtype="uint8", **arguments)


def test_features_come_in_the_order_of_the_images(tmp_path):
    embedder = Embedder(bgr_means(tmp_path / "mean.onnx"), device="cpu")
    assert embedder.dimension == 3
    images = COLOURS * 7
    features = embedder.predict(images)
    assert [f.shape for f in features] == [(3,)] * 21
    np.testing.assert_allclose(features, [image[0, 0] for image in images])
    assert features[0].dtype == np.float32


@pytest.mark.parametrize("count", [0, 1, CPU_BATCH - 1, CPU_BATCH, CPU_BATCH + 1, 3 * CPU_BATCH + 1])
def test_any_number_of_images(tmp_path, count):
    embedder = Embedder(bgr_means(tmp_path / "mean.onnx"), device="cpu")
    assert len(embedder.predict(FRAME for _ in range(count))) == count
    boxes = np.tile([1, 2, 10, 20], (count, 1))
    assert embedder.embed(FRAME, boxes).shape == (count, 3)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_a_model_of_fixed_batch_size(tmp_path, batch):
    embedder = Embedder(bgr_means(tmp_path / "mean.onnx", batch=batch), device="cpu")
    features = embedder.predict(COLOURS + COLOURS[:1])
    np.testing.assert_allclose(features, [image[0, 0] for image in COLOURS + COLOURS[:1]])


@pytest.mark.parametrize("outputs", [(3,), (3, 1, 1)])
def test_features_may_have_trailing_axes(tmp_path, outputs):
    embedder = Embedder(bgr_means(tmp_path / "mean.onnx", outputs=outputs), device="cpu")
    assert embedder.predict(COLOURS)[0].shape == (3,)


def test_detections_without_a_pixel_get_a_zero_feature(tmp_path):
    embedder = Embedder(bgr_means(tmp_path / "mean.onnx"), device="cpu")
    boxes = [[1, 1, 20, 20], [-100, 0, 50, 50], [3, 3, 0.5, 20], [60, 40, 50, 50], [70, 0, 5, 5]]
    features = embedder.embed(FRAME, boxes)
    assert features.any(axis=1).tolist() == [True, False, False, True, False]
    assert not embedder.predict([FRAME[:0]])[0].any()


def test_rgb_images_give_the_same_features_as_bgr_ones(tmp_path):
    path = bgr_means(tmp_path / "mean.onnx")
    boxes = [[1, 1, 20, 20], [5, 5, 9, 30]]
    expected = Embedder(path, device="cpu").embed(FRAME, boxes)
    for rgb in (FRAME[..., ::-1], np.ascontiguousarray(FRAME[..., ::-1])):
        np.testing.assert_array_equal(Embedder(path, device="cpu", bgr=False).embed(rgb, boxes), expected)


def test_masks_and_polygons(tmp_path):
    embedder = Embedder(bgr_means(tmp_path / "mean.onnx", size=(10, 10)), device="cpu")
    white = np.full((48, 64, 3), 255, np.uint8)
    mask = np.zeros((48, 64), bool)
    mask[:, :15] = True
    (feature,) = embedder.embed(white, [[10, 10, 10, 10]], masks=[mask])
    np.testing.assert_allclose(feature, (255 + np.array([123, 116, 103])) / 2)
    (feature,) = embedder.embed(white, [[0, 0, 1, 1]], polygons=[[10, 10, 19, 10, 19, 14, 10, 14]])
    np.testing.assert_allclose(feature, [255] * 3)


@pytest.mark.parametrize("frame", [None, FRAME[..., 0], FRAME.astype(float), "frame.png"])
def test_frames_that_are_none(tmp_path, frame):
    embedder = Embedder(bgr_means(tmp_path / "mean.onnx"), device="cpu")
    with pytest.raises(InputError, match="frame must be"):
        embedder.embed(frame, [[0, 0, 5, 5]])
    with pytest.raises(InputError, match="image 1 must be"):
        embedder.predict([FRAME, frame])


def test_the_callers_frame_is_left_alone(tmp_path):
    embedder = Embedder(bgr_means(tmp_path / "mean.onnx"), device="cpu")
    frame = FRAME.copy()
    frame.setflags(write=False)
    embedder.embed(frame, [[0, 0, 30, 30]], masks=[np.zeros((48, 64), bool)])
    embedder.embed(frame, [[0, 0, 30, 30]], polygons=[[0, 0, 9, 9, 0, 9]])
    np.testing.assert_array_equal(frame, FRAME)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("mine", ((204 - 123.675) / 58.395, (51 - 103.53) / 57.375)),
        ("clip_RN50", (1.185817, -0.754996)),
        ("clip_RN50.fp16.b16.trt10.3.0.0dcf2a37", (1.185817, -0.754996)),  # as engines are named
    ],
)
def test_float_input_without_a_manifest_is_normalised_rgb(tmp_path, stem, expected):
    path = mean_colour(tmp_path / f"{stem}.onnx")
    (feature,) = Embedder(path, device="cpu").predict([np.full((5, 5, 3), (51, 102, 204), np.uint8)])
    np.testing.assert_allclose([feature[0], feature[2]], expected, rtol=1e-4)


def test_a_manifest_beside_a_users_own_file(tmp_path):
    path = mean_colour(tmp_path / "mine.onnx", size=("h", "w"))
    spec = ImageInput("images", 8, 4, "NCHW", "float32", "BGR", (1.0,) * 3, (2.0,) * 3)
    manifest = ModelManifest("mine", "embedder", "mean", spec, "features")
    with pytest.raises(ModelError, match=r"mine.json beside it \(inputs: images \(\?, 3, \?, \?\) float32; outputs"):
        Embedder(path, device="cpu")
    (tmp_path / "mine.json").write_text(manifest.to_json())
    (feature,) = Embedder(path, device="cpu").predict([COLOURS[0]])
    np.testing.assert_allclose(feature, (np.array([10, 20, 30]) - 1) / 2)


@pytest.mark.parametrize(("field", "value"), [("output", "answers"), ("input", ImageInput("pictures", 8, 4))])
def test_a_manifest_that_names_other_tensors(tmp_path, field, value):
    fields = {"input": ImageInput("images", 8, 4), "output": "features", field: value}
    manifest = ModelManifest(name="mean", task="embedder", network="mean", **fields)
    path = bgr_means(tmp_path / "mean.onnx", metadata={METADATA_KEY: manifest.to_json()})
    with pytest.raises(ModelError, match="names other tensors"):
        Embedder(path, device="cpu")


def test_files_that_are_no_embedders(tmp_path):
    with pytest.raises(ModelError, match=r"relu.onnx: needs an image input"):
        Embedder(relu(tmp_path / "relu.onnx"), device="cpu")
    image = ("float32", [1, 3, 8, 8])
    same = save_graph(tmp_path / "same.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": image}, {"y": image})
    with pytest.raises(
        ModelError, match=r"not an embedder with one feature output \(N, D\) \(inputs: x \(1, 3, 8, 8\)"
    ):
        Embedder(same, device="cpu")
    two = save_graph(
        tmp_path / "two.onnx", [helper.make_node("Add", ["x", "z"], ["y"])], {"x": image, "z": image}, {"y": image}
    )
    with pytest.raises(ModelError, match="not an embedder with one image input"):
        Embedder(two, device="cpu")
    detector = ModelManifest("d", "detector", "none", ImageInput("images", 8, 4), "features")
    path = bgr_means(tmp_path / "mean.onnx", metadata={METADATA_KEY: detector.to_json()})
    with pytest.raises(ModelError, match="a detector, not an embedder"):
        Embedder(path, device="cpu")


def test_features_that_are_not_finite_count_as_none(tmp_path, caplog):
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=1),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Log", ["mean"], ["features"]),
    ]
    inputs, outputs = {"images": ("uint8", ["n", 8, 8, 3])}, {"features": ("float32", ["n", 3])}
    embedder = Embedder(save_graph(tmp_path / "log.onnx", nodes, inputs, outputs), device="cpu")
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        features = embedder.predict([COLOURS[0], np.zeros((4, 4, 3), np.uint8)])
        assert features[0].all()
        assert not features[1].any()
    assert caplog.text.count("not finite") == 1


def test_a_model_that_was_handed_in_stays_open(tmp_path):
    model = OnnxModel(bgr_means(tmp_path / "mean.onnx"), "cpu")
    Embedder(model).close()
    embedder = Embedder(model)
    embedder.close()
    assert len(embedder.predict(COLOURS)) == 3


def test_an_embedder_closes_its_own_model(tmp_path):
    embedder = Embedder(bgr_means(tmp_path / "mean.onnx"), device="cpu")
    embedder.close()
    with pytest.raises(ModelError, match="closed"):
        embedder.predict(COLOURS)


def test_names():
    assert [model_name(choice) for choice in CHOICES] == [
        *("mobilenetv2", "osnet_ain_x1_0", "clip_RN50", "clip_RN101", "clip_RN50x4", "clip_RN50x16"),
        *("clip_ViT-B-32", "clip_ViT-B-16"),
    ]
    assert all(model_name(choice) in KNOWN for choice in CHOICES)
    assert model_name("torchreid", "osnet_x0_25") == "osnet_x0_25"
    assert model_name("mine") == "mine"
    with pytest.raises(ConfigError, match="goes with 'torchreid'"):
        model_name("mobilenet", "osnet_x0_25")


def test_a_model_that_is_not_there_says_what_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(tmp_path))
    for make, name in (
        (MobileNetv2_Embedder, "mobilenetv2"),
        (TorchReID_Embedder, "osnet_ain_x1_0"),
        (Clip_Embedder, "clip_ViT-B-32"),
        (lambda: Clip_Embedder("RN50x4"), "clip_RN50x4"),
        (lambda: TorchReID_Embedder("osnet_x0_5"), "osnet_x0_5"),
        (lambda: Embedder("clip_ViT-B/16"), "clip_ViT-B-16"),
    ):
        with pytest.raises(ModelError, match=f"make export MODELS={name}"):
            make()


@pytest.mark.parametrize("make", [MobileNetv2_Embedder, TorchReID_Embedder, Clip_Embedder])
def test_the_references_embedders_take_their_arguments(tmp_path, make):
    path = bgr_means(tmp_path / "mean.onnx")
    embedder = make(model_wts_path=str(path), bgr=False, gpu=False, max_batch_size=2)
    np.testing.assert_allclose(embedder.predict(COLOURS)[0], [30, 20, 10])
    assert make(model_wts_path=path).predict([]) == []


def test_positional_arguments_are_the_references(tmp_path):
    path = bgr_means(tmp_path / "mean.onnx")
    assert MobileNetv2_Embedder(path, False, 2, False, False).predict(COLOURS)[0][0] == 30
    assert TorchReID_Embedder(None, path, False, False, None).predict(COLOURS)[0][0] == 30
    assert Clip_Embedder("RN50", path, 16, False, False).predict(COLOURS)[0][0] == 30


def test_normalisation_comes_back_as_it_is_published() -> None:
    """`make export` writes the 0..1 scale into graphs: to the last bit, so that their files do not change."""
    assert unit_scale(KNOWN["mobilenetv2"].mean) == (0.485, 0.456, 0.406)
    assert unit_scale(KNOWN["mobilenetv2"].std) == (0.229, 0.224, 0.225)
    assert unit_scale(CLIP_MEAN) == (0.48145466, 0.4578275, 0.40821073)
    assert unit_scale(CLIP_STD) == (0.26862954, 0.26130258, 0.27577711)
