"""The newest frame of a camera with its tracks, as JPEG."""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor

import cv2

from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.outputs.annotate import Annotator
from edge_tracker.app.sources.frames import Frame

IMAGES_PER_SECOND = 10
MAX_SIDE = 1280  # pixels; larger images are scaled down
JPEG_QUALITY = 80
TRAIL_GAP_S = 1.0  # after this long without a viewer, trails start afresh


class CameraImage:
    """The newest frame of a camera, drawn and encoded on request, once for all viewers.

    Args:
        pool: the threads that draw and encode.

    Attributes:
        newest: the frame and its tracks; None before the first.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self.newest: tuple[Frame, FrameTracks] | None = None
        self._lock = asyncio.Lock()
        self._shown: tuple[Frame, FrameTracks] | None = None
        self._jpeg: bytes | None = None
        self._made = -math.inf
        self._annotator = Annotator()

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the newest frame in pixels; None without an image."""
        newest = self.newest
        if newest is None or newest[0].image is None:
            return None
        height, width = newest[0].image.shape[:2]
        return width, height

    async def jpeg(self) -> bytes | None:
        """The newest frame with its tracks as JPEG; None without an image.

        A new one is encoded at most `IMAGES_PER_SECOND` times a second. In between, and while no newer frame has
        arrived, the same object is returned.
        """
        async with self._lock:
            newest, now = self.newest, time.monotonic()
            if newest is not None and newest is not self._shown and now - self._made >= 1 / IMAGES_PER_SECOND:
                if now - self._made > TRAIL_GAP_S:
                    self._annotator = Annotator()
                loop = asyncio.get_running_loop()
                jpeg = await loop.run_in_executor(self._pool, encode_jpeg, *newest, self._annotator)
                self._shown, self._jpeg, self._made = newest, jpeg, now
            return self._jpeg


def encode_jpeg(frame: Frame, tracks: FrameTracks, annotator: Annotator) -> bytes | None:
    """A frame with its tracks drawn on it, as JPEG; None for a frame without an image."""
    image, ltrb = frame.image, tracks.ltrb
    if image is None:
        return None
    height, width = image.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image, ltrb = cv2.resize(image, size, interpolation=cv2.INTER_AREA), ltrb * scale
    drawn = annotator.draw(image, tracks.ids, ltrb, tracks.labels())
    _, data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
