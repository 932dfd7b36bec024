"""An opened `cv2.VideoCapture`: the choice of OpenCV's backend, and the reason if nothing can open the source."""

from __future__ import annotations

import logging
import math
import os
from functools import cache

import cv2
import numpy as np

from edge_tracker.app.config.uri import camera_index, is_path, redact, scheme_of
from edge_tracker.app.sources.gstreamer import csi_pipeline, on_jetson, own_pipeline, rtsp_pipeline
from edge_tracker.errors import SourceError

# OpenCV and FFmpeg print remarks about a stream, with its URL, to stderr. This module's own messages have what matters.
# FFmpeg's part reads its variable at its first use.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if "OPENCV_LOG_LEVEL" not in os.environ:
    _set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # 4.x, 5.x
    _set_log_level(0)

log = logging.getLogger(__name__)

OPEN_TIMEOUT_MS = 15_000
READ_TIMEOUT_MS = 15_000
# Each thread of FFmpeg's decoder holds back one more frame. By default there is one thread for each core.
LIVE_THREADS = 2

# Streams that FFmpeg could decode and the hardware decoder could not: it is not tried again at each reconnect.
_on_cpu: set[str | int] = set()


class Capture:
    """An opened video file, camera or stream.

    Args:
        capture: opened.
        name: its name in messages, without credentials.
        device: True for a camera of this machine.

    Attributes:
        name: as given.
        fps: frames per second as declared, or None.
        frame_count: number of frames, or None for a source without an end. It may be wrong.
    """

    def __init__(self, capture: cv2.VideoCapture, name: str, device: bool) -> None:
        self.name = name
        self._capture = capture
        self._ahead: np.ndarray | None = None
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = fps if math.isfinite(fps) and 0 < fps <= 240 else None
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finite = math.isfinite(count) and 0 < count < 1e9 and not device
        self.frame_count: int | None = int(count) if finite else None

    def read(self) -> np.ndarray | None:
        """The next frame, (H, W, 3) uint8 BGR, or None at the end or if it cannot be read."""
        if self._ahead is not None:
            image, self._ahead = self._ahead, None
            return image
        try:
            ok, image = self._capture.read()
        except cv2.error:  # raised instead of False by some backends on a broken stream
            return None
        return image if ok and image is not None and image.size > 0 else None

    def skip(self, frames: int) -> int:
        """Skip `count` frames at the start, and return the number of frames that there were."""
        for skipped in range(frames):
            try:
                grabbed = self._capture.grab()
            except cv2.error:
                grabbed = False
            if not grabbed:
                return skipped
        return frames

    def gives_frames(self) -> bool:
        """True if there is a next frame, which `read` will return."""
        self._ahead = self.read()
        return self._ahead is not None

    def position(self) -> float | None:
        """Time of the last frame read, in seconds on the stream's own clock; None if it has none."""
        position: float = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return position if math.isfinite(position) and position >= 0 else None

    def close(self) -> None:
        """Release the file or the device."""
        self._capture.release()


def source_name(uri: str | int) -> str:
    """The name of a source in messages, without credentials."""
    number = camera_index(uri)
    return redact(uri) if number is None else f"camera {number}"


def open_capture(uri: str | int, read_timeout_s: float = READ_TIMEOUT_MS / 1000) -> Capture:
    """Open a video file, camera or stream.

    Args:
        uri: an absolute path, a camera's number, or a URI of `uri.SCHEMES`.
        read_timeout_s: seconds without data after which a stream counts as ended, where the backend can tell.

    Raises:
        SourceError: it cannot be opened.
    """
    name, scheme, number = source_name(uri), scheme_of(uri), camera_index(uri)
    device = number is not None or str(uri).startswith("/dev/")
    read_timeout_ms = round(1000 * read_timeout_s)
    if scheme in ("csi", "gst"):
        pipeline = csi_pipeline(str(uri)) if scheme == "csi" else own_pipeline(str(uri))
        if not _has(cv2.CAP_GSTREAMER):
            raise SourceError(
                f"{name}: this OpenCV ({cv2.__version__}) was built without GStreamer, which {scheme}: needs; "
                "use the system's OpenCV (on a Jetson, JetPack's), not the one from PyPI"
            )
        capture = _try(pipeline, cv2.CAP_GSTREAMER, _timeouts(read_timeout_ms))
        hint = "is the camera connected?" if scheme == "csi" else "try it with gst-launch-1.0"
        if not capture.isOpened():
            raise SourceError(f"{name}: GStreamer cannot run it; {hint}")
        return Capture(capture, name, device=True)
    tried_hardware = False
    if scheme in ("rtsp", "rtsps") and uri not in _on_cpu and on_jetson():
        if _has(cv2.CAP_GSTREAMER):
            tried_hardware = True
            hardware = _try(rtsp_pipeline(str(uri)), cv2.CAP_GSTREAMER, _timeouts(read_timeout_ms))
            # GStreamer learns the kind of stream, and whether it can decode it, only after it counts as opened.
            if hardware.isOpened() and (opened := Capture(hardware, name, device=True)).gives_frames():
                return opened
            hardware.release()
        else:
            _say_no_hardware()
    if device and _has(cv2.CAP_V4L2):
        capture = _try(str(uri) if number is None else number, cv2.CAP_V4L2, [])
    elif not device and _has(cv2.CAP_FFMPEG):
        # The backend is named: others would take the name of one image for a sequence, and print remarks.
        threads = [] if is_path(uri) else [cv2.CAP_PROP_N_THREADS, LIVE_THREADS]
        capture = _try(str(uri), cv2.CAP_FFMPEG, _timeouts(read_timeout_ms) + threads)
    else:
        capture = _try(str(uri) if number is None else number, cv2.CAP_ANY, [])
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{name}: {_why_not_opened(uri, device)}")
    if tried_hardware:
        log.warning("%s: the hardware decoder cannot decode this stream; FFmpeg decodes it on the CPU", name)
        _on_cpu.add(uri)
    return Capture(capture, name, device)


def _has(backend: int) -> bool:
    return bool(cv2.videoio_registry.hasBackend(backend))


@cache
def _say_no_hardware() -> None:
    log.warning(
        "this OpenCV was built without GStreamer: streams are decoded on the CPU; use JetPack's OpenCV for the "
        "Jetson's decoder"
    )


def _timeouts(read_ms: int) -> list[int]:
    return [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]


def _try(uri: str | int, backend: int, options: list[int]) -> cv2.VideoCapture:
    try:
        return cv2.VideoCapture(uri, backend, options)
    except cv2.error:
        return cv2.VideoCapture()


def _why_not_opened(uri: str | int, device: bool) -> str:
    if device:
        return "cannot be opened; is it plugged in, free, and may this user read it?"
    if not is_path(uri):
        why, scheme = "cannot be opened; check the address, the network and the credentials", scheme_of(uri)
        if scheme in ("rtsp", "rtsps", "http", "https"):  # every FFmpeg has these
            return why
        return f"{why}, and whether this OpenCV's FFmpeg has {scheme}"
    if not os.access(uri, os.R_OK):
        return "cannot be opened: permission denied"
    if os.path.getsize(uri) == 0:
        return "cannot be opened as a video: the file is empty"
    return "cannot be opened as a video: damaged, or of a kind that this OpenCV cannot read"
