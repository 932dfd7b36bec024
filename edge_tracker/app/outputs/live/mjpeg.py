"""Streams of images, and their viewers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from edge_tracker.app.outputs.live.camera_image import IMAGES_PER_SECOND, CameraImage

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

REPEAT_S = 5.0  # an old picture is sent again, so that a viewer who vanished without a word is noticed
MAX_VIEWERS = 16  # of streams
BOUNDARY = "edge-tracker-picture"


class Viewers:
    """Those who watch streams.

    Attributes:
        count: how many there are.
        limit: how many there may be.
        closing: whether all streams end.
    """

    def __init__(self) -> None:
        self.count = 0
        self.limit = MAX_VIEWERS
        self.closing = False

    @property
    def full(self) -> bool:
        """Whether there are as many as are served at a time."""
        return self.count >= self.limit


class MjpegStream:
    """Motion JPEG, one image after the other, until the viewer goes or the server closes.

    A slow viewer gets the image that is the newest when there is room for it.
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
            # The head of the next part goes with each image, since Chromium shows a part only when the next begins;
            # so a part's head cannot say how long it is.
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
            pass  # the viewer went
        finally:
            self._viewers.count -= 1
            gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
