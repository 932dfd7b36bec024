"""Sources that are read to their end: a video file, images, or no images at all for replayed detections.

A source reads its first frame when it is opened, so that an unreadable one is known before any result is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edge_tracker.app.config.uri import IMAGE_SUFFIXES
from edge_tracker.app.sources.capture import Capture
from edge_tracker.app.sources.frames import Frame
from edge_tracker.errors import SourceError

log = logging.getLogger(__name__)

IMAGE_FPS = 10.0


class VideoSource:
    """A video file: all of its frames, in order, as fast as they are requested.

    Args:
        capture: opened.
        fps: the frame rate to assume, whatever the file says.
        skip: frames to skip at the start. They are decoded, since seeking finds exactly the same frame only in some
            containers, and nothing tells in which.

    Raises:
        SourceError: it holds no readable frame. `capture` is closed then.
    """

    live = False

    def __init__(self, capture: Capture, fps: float | None, skip: int = 0) -> None:
        self.name = capture.name
        self.frame_count = capture.frame_count
        self.fps = fps or capture.fps
        self._capture = capture
        self._fixed_fps = fps
        self._skip = skip
        skipped = capture.skip(skip)
        self._first = capture.read()
        if self._first is None:
            capture.close()
            if skipped:
                raise SourceError(f"{self.name}: ended after {skipped} frames, before those that were asked for")
            raise SourceError(f"{self.name}: opened, but holds no readable frame; is the file damaged or empty?")

    def __iter__(self) -> Iterator[Frame]:
        index, last = self._skip, 0.0
        while True:
            image, self._first = self._first if index == self._skip else self._capture.read(), None
            if image is None:
                break
            index += 1
            last = max(last, self._time_of(index))
            yield Frame(index, last, image)
        # In some containers it is only an estimate: a frame or two less does not matter.
        if self.frame_count is not None and index < self.frame_count - max(2, self.frame_count // 100):
            log.warning(
                "%s: ended after %d of %d frames; the rest cannot be read, or the file says a wrong number",
                self.name,
                index,
                self.frame_count,
            )

    def _time_of(self, index: int) -> float:
        if self._fixed_fps:
            return (index - 1) / self._fixed_fps
        position = self._capture.position()
        if position is not None and (position > 0 or index == 1):
            return position
        return (index - 1) / (self.fps or IMAGE_FPS)

    def close(self) -> None:
        self._capture.close()


class ImageSource:
    """Image files in order. An unreadable one is skipped with a warning; its number is not used for another."""

    def __init__(self, name: str, files: list[Path], fps: float | None) -> None:
        self.name = name
        self.live = False
        self.fps: float | None = fps or IMAGE_FPS
        self.frame_count: int | None = len(files)
        self._files = files
        if not files:
            kinds = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
            raise SourceError(f"{name}: no images in it; looked for {kinds}")
        self._first = next(((i, image) for i in range(len(files)) if (image := self._load(i)) is not None), None)
        if self._first is None:
            raise SourceError(f"{name}: none of its {len(files)} images can be read; the first is {files[0].name}")

    def __iter__(self) -> Iterator[Frame]:
        assert self._first is not None
        assert self.fps is not None
        start, image = self._first
        for i in range(start, len(self._files)):
            frame = image if i == start else self._load(i)
            if frame is not None:
                yield Frame(i + 1, i / self.fps, frame)

    def _load(self, i: int) -> np.ndarray | None:
        try:
            image = cv2.imread(str(self._files[i]), cv2.IMREAD_COLOR)
        except cv2.error:  # larger than OpenCV's own limit
            image = None
        if image is None:
            log.warning("%s: cannot be read as an image; skipped", self._files[i])
        return image

    def close(self) -> None:
        pass


class NoImages:
    """Frame numbers and times alone, for detections that are replayed without their video."""

    def __init__(self, name: str, frame_count: int, fps: float | None) -> None:
        self.name = name
        self.live = False
        self.fps: float | None = fps or IMAGE_FPS
        self.frame_count: int | None = frame_count

    def __iter__(self) -> Iterator[Frame]:
        assert self.fps is not None
        assert self.frame_count is not None
        for index in range(1, self.frame_count + 1):
            yield Frame(index, (index - 1) / self.fps, None)

    def close(self) -> None:
        pass
