"""GStreamer pipelines, as the strings that OpenCV opens: a Jetson's cameras and its hardware decoder."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from edge_tracker.errors import SourceError

# Keeps only the newest frame, whatever the pipeline's clock says: an older one that was not read is of no use.
_LIVE_SINK = "appsink drop=true max-buffers=1 sync=false"
# OpenCV takes BGR; nvvidconv, which copies out of the GPU's memory, makes BGRx.
_TO_BGR = "videoconvert ! video/x-raw, format=(string)BGR"
_FROM_GPU = f"nvvidconv ! video/x-raw, format=(string)BGRx ! {_TO_BGR}"

_CSI_KEYS = ("width", "height", "fps")
# Matches quoted text in a pipeline: a word in it is not an element.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
_APPSINK = re.compile(r"!\s*(appsink)(?![\w-])")


def rtsp_pipeline(uri: str, latency_ms: int = 200) -> str:
    """An RTSP stream through the Jetson's decoder.

    `decodebin` chooses nvv4l2decoder for every codec that it supports, since it ranks above the decoders on the CPU.
    Those do not decode into the GPU's memory; with one of them the pipeline gives no frame.

    Args:
        uri: rtsp:// or rtsps://, optionally with user and password.
        latency_ms: length of the buffer that evens out the network's jitter.
    """
    return (
        f'rtspsrc location="{_quoted(uri)}" protocols=tcp latency={latency_ms} '
        f"! application/x-rtp, media=(string)video ! decodebin "
        f"! video/x-raw(memory:NVMM) ! {_FROM_GPU} ! {_LIVE_SINK}"
    )


def csi_pipeline(uri: str) -> str:
    """A camera at the Jetson's CSI connector.

    Args:
        uri: `csi://SENSOR` with optional `?width=&height=&fps=`: pixels, pixels, frames per second. The camera chooses
            those that are not given.

    Raises:
        SourceError: it is not of that form.
    """
    expected = "expected csi://SENSOR such as csi://0?width=1920&height=1080&fps=30"
    parts = urlsplit(uri)
    sensor = parts.netloc
    if not re.fullmatch(r"[0-9]{1,2}", sensor) or parts.path not in ("", "/") or parts.fragment:
        raise SourceError(f"csi://{sensor}: is not a sensor's number; {expected}")
    wanted: dict[str, int] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in _CSI_KEYS or not re.fullmatch(r"[1-9][0-9]{0,4}", value) or key in wanted:
            raise SourceError(f"csi://{sensor}: {key}={value} is not valid; {expected}")
        wanted[key] = int(value)
    caps = "video/x-raw(memory:NVMM)"
    for key in ("width", "height"):
        if key in wanted:
            caps += f", {key}=(int){wanted[key]}"
    if "fps" in wanted:
        caps += f", framerate=(fraction){wanted['fps']}/1"
    return f"nvarguscamerasrc sensor-id={int(sensor)} ! {caps} ! {_FROM_GPU} ! {_LIVE_SINK}"


def own_pipeline(uri: str) -> str:
    """The pipeline of `gst:PIPELINE`, converted to BGR, and with an appsink that keeps the newest frame if it has none.

    Raises:
        SourceError: it is empty.
    """
    pipeline = uri[len("gst:") :].strip().rstrip("!").strip()
    if not pipeline:
        raise SourceError("gst: names no pipeline; expected one such as gst:v4l2src device=/dev/video0 ! jpegdec")
    own_sink = _APPSINK.search(_QUOTED.sub(lambda quoted: "_" * len(quoted.group()), pipeline))
    if own_sink is None:
        return f"{pipeline} ! {_TO_BGR} ! {_LIVE_SINK}"
    # OpenCV takes whatever reaches the appsink, even NV12, as a grey image of one and a half times the height.
    at = own_sink.start(1)
    return f"{pipeline[:at]}{_TO_BGR} ! {pipeline[at:]}"


def _quoted(uri: str) -> str:
    """`uri`, percent-encoded so that nothing in it can end the quotes around it or be an escape."""
    kept = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", uri)
    return quote(kept, safe="%:/?#[]@$&()*+,;=-._~")


@cache
def on_jetson() -> bool:
    """True if this machine has the Jetson's hardware decoder."""
    try:
        if b"nvidia,tegra" in Path("/proc/device-tree/compatible").read_bytes():
            return True
    except OSError:
        pass
    inspect = shutil.which("gst-inspect-1.0")  # a container may not see the device tree
    if inspect is None:
        return False
    try:
        return subprocess.run([inspect, "--exists", "nvv4l2decoder"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
