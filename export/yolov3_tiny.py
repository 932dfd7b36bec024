"""YOLOv3-tiny from Darknet's weights to ONNX, with only `onnx` and NumPy.

The network is the small form of Redmon and Farhadi's YOLOv3 (arXiv 1804.02767), trained on COCO. The graph takes a
letterboxed BGR image of uint8 and gives `[1, N, 85]`: centre x, centre y, width and height in input pixels, then
objectness and 80 class scores, which are between 0 and 1 already. That is YOLOv5's layout. There is no NMS inside.

The second head's anchors are numbers 1, 2 and 3 of the six. The configuration in circulation says 0, 1 and 2, which
still finds people but with boxes of a wrong size: AP on the demo video is then 0.00 instead of 0.82.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

from edge_tracker.errors import ModelError

Array = npt.NDArray[Any]  # of floats

WIDTH, HEIGHT = 416, 320
CLASSES = 80
ANCHORS = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))  # width, height in input pixels
HEADS = ((32, (3, 4, 5)), (16, (1, 2, 3)))  # (stride in pixels, anchor numbers) of the coarse and the fine head
LEAK = 0.1

# Darknet adds this to the standard deviation, not to the variance.
EPSILON = 1e-6


@dataclass(frozen=True)
class Convolution:
    """One convolution as Darknet stores it. Those without batch normalisation are the two heads, which are linear.

    Attributes:
        weight: (out, in, k, k).
        bias: (out,); batch normalisation's shift where there is one.
        scale, mean, variance: (out,) of batch normalisation, or None.
    """

    weight: Array
    bias: Array
    scale: Array | None = None
    mean: Array | None = None
    variance: Array | None = None

    def folded(self) -> tuple[Array, Array]:
        """Weight and bias of the equivalent convolution, batch normalisation included."""
        if self.scale is None or self.mean is None or self.variance is None:
            return self.weight, self.bias
        gain = self.scale.astype(np.float64) / (np.sqrt(self.variance.astype(np.float64)) + EPSILON)
        weight = self.weight * gain[:, None, None, None]
        return weight.astype(np.float32), (self.bias - self.mean * gain).astype(np.float32)


# (name, in, out, kernel, batch normalisation) in the order of the weights file.
LAYERS = (
    ("conv0", 3, 16, 3, True),
    ("conv2", 16, 32, 3, True),
    ("conv4", 32, 64, 3, True),
    ("conv6", 64, 128, 3, True),
    ("conv8", 128, 256, 3, True),
    ("conv10", 256, 512, 3, True),
    ("conv12", 512, 1024, 3, True),
    ("conv13", 1024, 256, 1, True),
    ("conv14", 256, 512, 3, True),
    ("head15", 512, 3 * (5 + CLASSES), 1, False),
    ("conv18", 256, 128, 1, True),
    ("conv21", 384, 256, 3, True),
    ("head22", 256, 3 * (5 + CLASSES), 1, False),
)


def read_weights(path: str | Path) -> dict[str, Convolution]:
    """Read `yolov3-tiny.weights`.

    Returns:
        The convolutions by name ("conv0" ... "head22"; the number is Darknet's layer number).

    Raises:
        ModelError: the file is shorter or longer than the network.
    """
    path = Path(path)
    data = path.read_bytes()
    if len(data) < 16:
        raise ModelError(f"{path}: not a Darknet weights file (only {len(data)} bytes)")
    major, minor = np.frombuffer(data, "<i4", 2)
    # Since version 0.2 the count of training images takes eight bytes instead of four.
    header = 20 if major * 10 + minor >= 2 else 16
    floats = np.frombuffer(data, "<f4", offset=header, count=(len(data) - header) // 4)
    wanted = sum(out * ((4 if norm else 1) + channels * k * k) for _, channels, out, k, norm in LAYERS)
    if len(floats) != wanted or (len(data) - header) % 4:
        raise ModelError(
            f"{path}: has {len(floats)} weights, but YOLOv3-tiny with {CLASSES} classes has {wanted}: "
            "truncated, or the weights of another network"
        )
    position = 0

    def take(*shape: int) -> Array:
        nonlocal position
        count = int(np.prod(shape))
        values = floats[position : position + count].reshape(shape).astype(np.float32)
        position += count
        return values

    layers = {}
    for name, channels, out, kernel, norm in LAYERS:
        bias = take(out)
        scale, mean, variance = (take(out), take(out), take(out)) if norm else (None, None, None)
        layers[name] = Convolution(take(out, channels, kernel, kernel), bias, scale, mean, variance)
    assert position == len(floats)
    return layers


def build(layers: dict[str, Convolution], opset: int = 17, half: bool = False) -> onnx.ModelProto:
    """The ONNX model: `images` (1, 320, 416, 3) uint8 BGR to `detections` (1, 1950, 85) float32.

    Batch normalisation is folded into the convolutions; the division by 255 and the step from BGR to the network's RGB
    into the first of them, which is exact since its zero padding means black in both cases.

    Args:
        layers: the result of `read_weights`.
        opset: ONNX opset.
        half: compute the convolutions in FP16. The input and the computation of boxes stay as they are: FP16 would
            round positions in the image to quarters of a pixel.
    """
    precision = np.float16 if half else np.float32
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, values: npt.NDArray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def convolution(x: str, name: str) -> str:
        weight, bias = layers[name].folded()
        if name == "conv0":
            weight = weight[:, ::-1] / np.float32(255)
        kernel = weight.shape[2]
        y = node(
            "Conv",
            [
                x,
                constant(f"{name}.weight", weight.astype(precision)),
                constant(f"{name}.bias", bias.astype(precision)),
            ],
            name if layers[name].scale is None else f"{name}/linear",
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
        )
        return y if layers[name].scale is None else node("LeakyRelu", [y], name, alpha=LEAK)

    def pool(x: str, name: str, stride: int) -> str:
        # The last pool has stride 1 and keeps the size by padding on the right and at the bottom only.
        pads = [0, 0, 1, 1] if stride == 1 else [0, 0, 0, 0]
        return node("MaxPool", [x], name, kernel_shape=[2, 2], strides=[stride, stride], pads=pads)

    x = node("Cast", ["images"], "pixels", to=TensorProto.FLOAT)
    x = node("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    if half:
        x = node("Cast", [x], "planes16", to=TensorProto.FLOAT16)
    for number in (0, 2, 4, 6, 8, 10):
        x = convolution(x, f"conv{number}")
        if number == 8:
            fine = x
        x = pool(x, f"pool{number + 1}", 1 if number == 10 else 2)
    x = convolution(x, "conv12")
    neck = convolution(x, "conv13")
    coarse_head = convolution(convolution(neck, "conv14"), "head15")
    x = node(
        "Resize",
        [convolution(neck, "conv18"), "", constant("twice", np.array([1, 1, 2, 2], np.float32))],
        "upsample19",
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    x = node("Concat", [x, fine], "route20", axis=1)
    fine_head = convolution(convolution(x, "conv21"), "head22")

    rows = []
    for head, (stride, _) in zip((coarse_head, fine_head), HEADS, strict=True):
        height, width = HEIGHT // stride, WIDTH // stride
        split = constant(f"{head}.split", np.array([1, 3, 5 + CLASSES, height, width]))
        flat = constant(f"{head}.rows", np.array([1, 3 * height * width, 5 + CLASSES]))
        x = node("Reshape", [head, split], f"{head}/anchors")
        x = node("Transpose", [x], f"{head}/last", perm=[0, 1, 3, 4, 2])
        rows.append(node("Reshape", [x, flat], f"{head}/rows"))
    logits = node("Concat", rows, "logits", axis=1)
    if half:
        logits = node("Cast", [logits], "logits32", to=TensorProto.FLOAT)

    corner, step, anchor = _grid()
    bounds = {i: constant(f"column{i}", np.array([i])) for i in (0, 2, 4, 5 + CLASSES)}
    last = constant("axis", np.array([2]))

    def part(start: int, end: int, name: str) -> str:
        return node("Slice", [logits, bounds[start], bounds[end], last], name)

    xy = node("Sigmoid", [part(0, 2, "xy")], "offset")
    xy = node("Mul", [xy, constant("stride", step)], "scaled")
    xy = node("Add", [xy, constant("corner", corner)], "centre")
    wh = node("Exp", [part(2, 4, "wh")], "factor")
    wh = node("Mul", [wh, constant("anchor", anchor)], "size")
    scores = node("Sigmoid", [part(4, 5 + CLASSES, "confidence")], "scores")
    nodes.append(helper.make_node("Concat", [xy, wh, scores], ["detections"], name="detections", axis=2))

    count = corner.shape[1]
    graph = helper.make_graph(
        nodes,
        "yolov3-tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])],
        [helper.make_tensor_value_info("detections", TensorProto.FLOAT, [1, count, 5 + CLASSES])],
        constants,
    )
    # IR version 8 is the oldest that goes with opset 17; runtimes refuse a newer one than they know.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _grid() -> tuple[Array, Array, Array]:
    """Per row of the output: cell corner (1, N, 2) and stride (1, N, 1) in pixels, anchor size (1, N, 2)."""
    corners, steps, anchors = [], [], []
    for stride, numbers in HEADS:
        height, width = HEIGHT // stride, WIDTH // stride
        y, x = np.mgrid[0:height, 0:width] * stride
        cells = np.stack([x, y], axis=-1).reshape(-1, 2)
        for number in numbers:
            corners.append(cells)
            steps.append(np.full((len(cells), 1), stride))
            anchors.append(np.tile(ANCHORS[number], (len(cells), 1)))
    return tuple(np.concatenate(part)[None].astype(np.float32) for part in (corners, steps, anchors))  # type: ignore[return-value]


def reference(layers: dict[str, Convolution], image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The network's output for one image, computed layer by layer in NumPy as Darknet does.

    Nothing is folded here, so it checks the folding in `build`.

    Args:
        image: (320, 416, 3) uint8, BGR.

    Returns:
        (1950, 85) float32, as the ONNX model's `detections[0]`.
    """

    def convolution(x: Array, name: str) -> Array:
        layer = layers[name]
        kernel = layer.weight.shape[2]
        if kernel > 1:
            x = np.pad(x, ((0, 0), (kernel // 2, kernel // 2), (kernel // 2, kernel // 2)))
        windows = sliding_window_view(x, (kernel, kernel), axis=(1, 2))
        y = np.tensordot(layer.weight, windows, axes=([1, 2, 3], [0, 3, 4]))
        if layer.scale is None or layer.mean is None or layer.variance is None:
            return y + layer.bias[:, None, None]
        y = (y - layer.mean[:, None, None]) / (np.sqrt(layer.variance) + EPSILON)[:, None, None]
        y = y * layer.scale[:, None, None] + layer.bias[:, None, None]
        return np.where(y > 0, y, np.float32(LEAK) * y)

    def pool(x: Array, stride: int) -> Array:
        if stride == 1:
            x = np.pad(x, ((0, 0), (0, 1), (0, 1)), constant_values=-np.inf)
        return sliding_window_view(x, (2, 2), axis=(1, 2))[:, ::stride, ::stride].max(axis=(3, 4))

    def head(x: Array, stride: int, numbers: tuple[int, ...]) -> Array:
        x = x.reshape(3, 5 + CLASSES, *x.shape[1:])
        height, width = x.shape[2:]
        out = 1 / (1 + np.exp(-x))
        anchors = np.array([ANCHORS[n] for n in numbers])
        out[:, 0] = (out[:, 0] + np.arange(width)) * stride
        out[:, 1] = (out[:, 1] + np.arange(height)[:, None]) * stride
        out[:, 2] = np.exp(x[:, 2]) * anchors[:, 0, None, None]
        out[:, 3] = np.exp(x[:, 3]) * anchors[:, 1, None, None]
        return out.transpose(0, 2, 3, 1).reshape(-1, 5 + CLASSES)

    x: Array = image[..., ::-1].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    for number in (0, 2, 4, 6):
        x = pool(convolution(x, f"conv{number}"), 2)
    fine = convolution(x, "conv8")
    x = pool(convolution(pool(fine, 2), "conv10"), 1)
    neck = convolution(convolution(x, "conv12"), "conv13")
    coarse = convolution(convolution(neck, "conv14"), "head15")
    x = convolution(neck, "conv18").repeat(2, axis=1).repeat(2, axis=2)
    x = convolution(convolution(np.concatenate([x, fine]), "conv21"), "head22")
    return np.concatenate([head(coarse, *HEADS[0]), head(x, *HEADS[1])]).astype(np.float32)
