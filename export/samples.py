"""Samples to compare exported models on: people in the demo video, or a folder of the user's own crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_tracker.detection import Detector
from edge_tracker.embedding.crops import CropCutter, whole_boxes
from edge_tracker.errors import EdgeTrackerError
from edge_tracker.inference.images import Image, ImageBatch
from edge_tracker.inference.manifest import ImageInput

Array = npt.NDArray[np.float32]

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
BATCH = 16


@dataclass(frozen=True)
class FrameBoxes:
    """The detections of one frame that have a crop: ltwh (M, 4), confidence (M,), class_id (M,)."""

    ltwh: Array
    confidence: Array
    class_id: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """Crops, and the detections of the frames that they come from.

    Attributes:
        origin: their origin, in words.
        crops: BGR images, frame after frame.
        frames: the detections of the crops, frame after frame; empty for a folder of crops.
    """

    origin: str
    crops: tuple[Image, ...]
    frames: tuple[FrameBoxes, ...] = ()

    def some(self, count: int) -> npt.NDArray[np.int64]:
        """Indices of at most `count` crops, evenly spread."""
        return np.unique(np.linspace(0, len(self.crops) - 1, min(count, len(self.crops))).round().astype(np.int64))


def frames_of(video: Path, limit: int | None) -> Iterator[Image]:
    """The first frames of a video.

    Raises:
        EdgeTrackerError: it cannot be read.
    """
    capture = cv2.VideoCapture(str(video))
    try:
        count = 0
        while limit is None or count < limit:
            read, frame = capture.read()
            if not read:
                break
            count += 1
            yield frame.astype(np.uint8, copy=False)
        if not count:
            raise EdgeTrackerError(f"{video}: not a video that OpenCV can read")
    finally:
        capture.release()


def from_video(video: Path, detector: Path, limit: int | None) -> Samples:
    """Cut out the people that the detector finds in the first `limit` frames (all of them for None)."""
    finder = Detector(detector, classes=["person"], device="cpu")
    cutter = CropCutter()
    crops: list[Image] = []
    frames: list[FrameBoxes] = []
    try:
        for frame in frames_of(video, limit):
            found = finder.detect(frame)
            kept = []
            for index, crop in cutter.cut(frame, whole_boxes(found.ltwh)):
                kept.append(index)
                crops.append(crop.copy())
            frames.append(FrameBoxes(found.ltwh[kept], found.confidence[kept], found.class_id[kept]))
    finally:
        finder.close()
    if not crops:
        raise EdgeTrackerError(f"{video}: no people are found in its first {len(frames)} frames; give another video")
    return Samples(f"{len(frames)} frames of {video.name}", tuple(crops), tuple(frames))


def from_folder(folder: Path) -> Samples:
    """All images in a folder and the folders inside it, in the order of their names.

    Raises:
        EdgeTrackerError: it has none, or one that cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise EdgeTrackerError(f"{folder}: has no images ({', '.join(SUFFIXES)})")
    crops: list[Image] = []
    for path in paths:
        crop = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if crop is None:
            raise EdgeTrackerError(f"{path}: not an image that OpenCV can read")
        crops.append(crop.astype(np.uint8, copy=False))
    return Samples(str(folder), tuple(crops))


def noise(count: int, height: int, width: int) -> list[Image]:
    """Images of random pixels, from fine grain to large blots; the same ones each time."""
    random = np.random.default_rng(0)
    images: list[Image] = []
    for i in range(count):
        grain = 2 ** (i % 6)
        coarse = random.integers(0, 256, (-(-height // grain), -(-width // grain), 3), np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        images.append(image.astype(np.uint8, copy=False))
    return images


def batches(crops: Sequence[Image], image: ImageInput) -> Iterator[npt.NDArray[Any]]:
    """The crops in batches as a model takes them. Each array is valid until the next."""
    rows = ImageBatch(image, BATCH)
    for start in range(0, len(crops), BATCH):
        some = crops[start : start + BATCH]
        for row, crop in enumerate(some):
            rows.put(row, crop)
        yield rows.tensor(len(some))
