"""The paths of the server and their responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from edge_tracker.app.outputs.live.camera_image import CameraImage
from edge_tracker.app.outputs.live.health import Liveness, unready_reasons
from edge_tracker.app.outputs.live.mjpeg import MjpegStream, Viewers
from edge_tracker.app.outputs.live.pages import page_routes
from edge_tracker.app.outputs.live.status import newest_tracks, run_status
from edge_tracker.app.outputs.metrics import registry_of
from edge_tracker.app.stats import Stats

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class Endpoints:
    """Responds to requests with the figures and images of a run.

    Args:
        stats: figures of the run, read at each request.
        images: the image of each camera, by name, in the order in which the page shows them.
        viewers: the viewers of the streams.
    """

    def __init__(self, stats: Stats, images: dict[str, CameraImage], viewers: Viewers) -> None:
        self._stats = stats
        self._images = images
        self._viewers = viewers
        self._registry = registry_of(stats)
        self._liveness = Liveness()

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            *page_routes(),
            Route("/stream/{camera}", self._stream),
            Route("/snapshot/{camera}.jpg", self._snapshot),
            Route("/metrics", self._metrics),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/api/status", self._status),
            Route("/api/tracks", self._tracks),
        ]
        app = Starlette(routes=routes)
        app.router.redirect_slashes = False  # a redirect would send browsers to any host that the Host header names
        return app

    def _image(self, request: Request) -> CameraImage | None:
        return self._images.get(request.path_params["camera"])

    async def _stream(self, request: Request) -> ASGIApp:
        image = self._image(request)
        if image is None:
            return _no_camera()
        if request.method == "HEAD":
            return Response(media_type=MjpegStream.media_type)
        if self._viewers.full:
            return _unavailable(f"all {self._viewers.limit} streams are in use; try again later")
        return MjpegStream(image, self._viewers)

    async def _snapshot(self, request: Request) -> Response:
        image = self._image(request)
        if image is None:
            return _no_camera()
        jpeg = await image.jpeg()
        return Response(jpeg, media_type="image/jpeg") if jpeg is not None else _unavailable("there is no image yet")

    async def _metrics(self, request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": kind})

    async def _healthz(self, request: Request) -> Response:
        return _health("ok", "stuck", self._liveness.stuck_reasons(self._stats))

    async def _readyz(self, request: Request) -> Response:
        return _health("ready", "not ready", unready_reasons(self._stats, list(self._images)))

    async def _status(self, request: Request) -> Response:
        return JSONResponse(run_status(self._stats, self._images))

    async def _tracks(self, request: Request) -> Response:
        return JSONResponse(newest_tracks(self._images))


def _no_camera() -> Response:
    return PlainTextResponse("no such camera; /api/status lists all cameras\n", 404)


def _unavailable(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", 503, {"retry-after": "2"})


def _health(good: str, bad: str, reasons: list[str]) -> Response:
    return JSONResponse({"status": bad if reasons else good, "reasons": reasons}, 503 if reasons else 200)
