"""Motion JPEG streams and their viewers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from edge_tracker.app.outputs.live.camera_image import IMAGES_PER_SECOND, CameraImage

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

REPEAT_S = 5.0  # an unchanged image is sent again after this long, to notice viewers that vanished without closing
MAX_VIEWERS = 16
BOUNDARY = "edge-tracker-picture"


class Viewers:
    """The number of streams being watched.

    Attributes:
        count: streams being watched now.
        limit: streams that may be watched at a time.
        closing: True once the server closes, which ends all streams.
    """

    def __init__(self) -> None:
        self.count = 0
        self.limit = MAX_VIEWERS
        self.closing = False

    @property
    def full(self) -> bool:
        """True if no further stream may be opened."""
        return self.count >= self.limit


class MjpegStream:
    """A response of JPEG images, one after the other, until the viewer leaves or the server closes.

    A slow viewer skips images: each one sent is the newest at that moment.

    Args:
        image: the camera to show.
        viewers: counts this stream while it is watched.
    """

    media_type = f"multipart/x-mixed-replace; boundary={BOUNDARY}"

    def __init__(self, image: CameraImage, viewers: Viewers) -> None:
        self._image, self._viewers = image, viewers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_until_gone(receive))
        self._viewers.count += 1
        try:
            headers = [(b"content-type", self.media_type.encode()), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            # Chromium shows a part only when the next one begins, so each image is followed at once by the header of
            # the next part. That is why the header cannot state the length of its part.
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
            await _send(send, head)
            last, sent = None, time.monotonic()
            while not gone.done() and not self._viewers.closing:
                jpeg = await self._image.jpeg()
                now = time.monotonic()
                if jpeg is not None and (jpeg is not last or now - sent >= REPEAT_S):
                    await _send(send, jpeg + b"\r\n" + head)
                    last, sent = jpeg, now
                await asyncio.wait([gone], timeout=0.5 / IMAGES_PER_SECOND)
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # the viewer left
        finally:
            self._viewers.count -= 1
            gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
