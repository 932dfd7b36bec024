"""The live page, its pictures, and the endpoints that monitoring asks. They are described in docs/live-page.md.

Needs uvicorn, starlette and prometheus-client. Nothing here may hold up the tracking: a run hands over its newest frame
and goes on, and drawing and encoding happen in the server's threads, only while somebody looks.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from http.cookies import CookieError, SimpleCookie
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import cv2

from edge_tracker.app.config.schema import ServerConfig
from edge_tracker.app.config.secret import read_secret
from edge_tracker.app.extras import extra
from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.outputs.annotate import Annotator
from edge_tracker.app.outputs.payloads import track_fields
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import CameraStats, Histogram, Stats
from edge_tracker.errors import ConfigError, OutputError
from edge_tracker.version import __version__

with extra("server", "server: the live page needs a package that is missing"):
    import uvicorn
    from prometheus_client.exposition import choose_encoder
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
    from starlette.routing import Route
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from edge_tracker.app.outputs.metrics import registry_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

PICTURES_PER_SECOND = 10
PICTURE_SIDE = 1280  # pixels; larger pictures are made smaller for the page
JPEG_QUALITY = 80
REPEAT_S = 5.0  # an old picture is sent again, so that a viewer who vanished without a word is noticed
TRAIL_GAP_S = 1.0  # after so long without a viewer, trails begin anew

MOST_VIEWERS = 16  # of streams
MOST_CONNECTIONS = 100
MOST_HEADER_BYTES = 16 * 1024
SEND_BUFFER = 256 * 1024  # in the kernel, for each connection; a slow viewer sees what is not older than this
STALLED_S = 10.0  # a connection that takes nothing, or asks nothing, for so long is closed

LEAST_TOKEN = 16
STUCK_S = 60.0  # frames come, but none is tracked

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
SIGN_IN = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>edge-tracker: token</title>
<h1>edge-tracker</h1>
<form action="/"><p><label>Token <input type="password" name="token" required autofocus></label> <button>Open</button>
</form></html>
"""
BOUNDARY = "edge-tracker-picture"


class LiveServer:
    """Serves the live page and the metrics of a run from a thread of its own.

    Args:
        config: where to listen, and where the token is.
        stats: of the run; read whenever somebody asks.
        cameras: the names of its cameras, in the order in which they are shown.

    Raises:
        ConfigError: the token is missing, too short or unreadable.
    """

    def __init__(self, config: ServerConfig, stats: Stats, cameras: list[str]) -> None:
        self._config = config
        self._stats = stats
        self._pictures = {name: _Picture() for name in cameras}
        self._family, self._ip, loopback = _resolve(config.host)
        self._token = _token_of(config, loopback)
        self._hosts = {"localhost", "127.0.0.1", "::1", config.host.lower()} if loopback else None
        self._registry = registry_of(stats)
        self._liveness = Liveness()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="live-picture")
        self._viewers = 0
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.address = (config.host, config.port)

    def start(self) -> None:
        """Listen, and serve from now on. `address` has the port that was taken.

        Raises:
            OutputError: the address cannot be listened on.
        """
        host, port = self._config.host, self._config.port
        try:
            listener = socket.create_server((self._ip, port), family=self._family, backlog=MOST_CONNECTIONS)
        except OSError as error:
            raise OutputError(
                f"server.port: {port} on {host} cannot be listened on: {error.strerror}; is another edge-tracker "
                "running? Give another port, or 0 for any free one"
            ) from None
        # Accepted connections take it over.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.address = (host, listener.getsockname()[1])
        settings = uvicorn.Config(
            _Guard(self._app(), self._token, self._hosts, self.address[1]),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._serve, args=(listener,), name="live-server", daemon=True)
        self._thread.start()
        shown = f"[{host}]" if ":" in host else host
        log.info("live page: http://%s:%d/%s", shown, self.address[1], " (asks for the token)" if self._token else "")

    def _serve(self, listener: socket.socket) -> None:
        async def serve() -> None:
            assert self._server is not None
            self._loop = asyncio.get_running_loop()
            await self._server.serve([listener])

        try:
            asyncio.run(serve())
        except Exception:
            log.exception("the live page has stopped; tracking goes on")
        finally:
            listener.close()

    def show(self, camera: str, frame: Frame, tracks: FrameTracks) -> None:
        """Take the newest frame of a camera. Costs next to nothing; neither may be changed afterwards."""
        self._pictures[camera].newest = (frame, tracks)

    def close(self) -> None:
        """End all answers, and stop listening."""
        self._closing = True
        if self._thread is not None and self._server is not None:
            self._server.should_exit = True
            if self._loop is not None:
                with suppress(RuntimeError):  # it has ended by itself
                    self._loop.call_soon_threadsafe(self._abort_stalled)
            self._thread.join(5.0)
            self._thread = None
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _abort_stalled(self) -> None:
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, _Connection) and connection.stalls:
                connection.transport.abort()

    # ---- answers -------------------------------------------------------------------------------------------------

    def _app(self) -> Starlette:
        routes = [Route(path, _page(name, kind)) for path, (name, kind) in PAGE.items()]
        routes += [
            Route("/stream/{camera}", self._stream),
            Route("/snapshot/{camera}.jpg", self._snapshot),
            Route("/metrics", self._metrics),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/api/status", self._status),
            Route("/api/tracks", self._tracks),
        ]
        app = Starlette(routes=routes)
        app.router.redirect_slashes = False  # it would send browsers to whatever the Host header says
        return app

    def _picture(self, request: Request) -> _Picture | None:
        return self._pictures.get(request.path_params["camera"])

    async def _stream(self, request: Request) -> ASGIApp:
        picture = self._picture(request)
        if picture is None:
            return _no_camera()
        if request.method == "HEAD":
            return Response(media_type=_Stream.media_type)
        if self._viewers >= MOST_VIEWERS:
            return _unavailable(f"{MOST_VIEWERS} streams are being watched, which is the most; try again later")
        return _Stream(self, picture)

    async def _snapshot(self, request: Request) -> Response:
        picture = self._picture(request)
        if picture is None:
            return _no_camera()
        jpeg = await picture.jpeg(self._pool)
        return Response(jpeg, media_type="image/jpeg") if jpeg is not None else _unavailable("there is no picture yet")

    async def _metrics(self, request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": kind})

    async def _healthz(self, request: Request) -> Response:
        return _verdict("ok", "stuck", self._liveness.stuck(self._stats))

    async def _readyz(self, request: Request) -> Response:
        return _verdict("ready", "not ready", missing_parts(self._stats, list(self._pictures)))

    async def _status(self, request: Request) -> Response:
        stats = self._stats
        return JSONResponse(
            {
                "version": __version__,
                "uptime_s": round(time.monotonic() - stats.started, 1),
                "ready": stats.ready,
                "reloads": stats.reloads,
                "models_changed": stats.models_changed,
                "mqtt": None
                if stats.mqtt_connected is None
                else {"connected": stats.mqtt_connected, "queue": stats.mqtt_queue, "lost": stats.mqtt_lost},
                "servers": {name: asdict(status) for name, status in stats.servers.copy().items()},
                "cameras": [
                    camera_status(stats.cameras.get(name) or CameraStats(name), picture.size)
                    for name, picture in self._pictures.items()
                ],
            }
        )

    async def _tracks(self, request: Request) -> Response:
        answer: dict[str, Any] = {}
        for name, picture in self._pictures.items():
            newest = picture.newest
            if newest is None:
                answer[name] = None
                continue
            frame, tracks = newest
            answer[name] = {
                "frame": frame.index,
                "time": round(frame.time, 3),
                "wall": round(frame.wall, 3),
                "tracks": track_fields(tracks),
            }
        return JSONResponse(answer)


class _Picture:
    """The newest frame of a camera, drawn and encoded when somebody asks, for all who do at once."""

    def __init__(self) -> None:
        self.newest: tuple[Frame, FrameTracks] | None = None
        self._lock = asyncio.Lock()
        self._shown: tuple[Frame, FrameTracks] | None = None
        self._jpeg: bytes | None = None
        self._made = -math.inf
        self._annotator = Annotator()

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the newest frame, pixels; None without one."""
        newest = self.newest
        if newest is None or newest[0].image is None:
            return None
        height, width = newest[0].image.shape[:2]
        return width, height

    async def jpeg(self, pool: ThreadPoolExecutor) -> bytes | None:
        """The newest frame with its tracks, at most `1 / PICTURES_PER_SECOND` old; the same object while unchanged."""
        async with self._lock:
            newest, now = self.newest, time.monotonic()
            if newest is not None and newest is not self._shown and now - self._made >= 1 / PICTURES_PER_SECOND:
                if now - self._made > TRAIL_GAP_S:
                    self._annotator = Annotator()
                jpeg = await asyncio.get_running_loop().run_in_executor(pool, encode, *newest, self._annotator)
                self._shown, self._jpeg, self._made = newest, jpeg, now
            return self._jpeg


def encode(frame: Frame, tracks: FrameTracks, annotator: Annotator) -> bytes | None:
    """A frame with its tracks on it as JPEG; None without an image."""
    image, ltrb = frame.image, tracks.ltrb
    if image is None:
        return None
    height, width = image.shape[:2]
    scale = PICTURE_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image, ltrb = cv2.resize(image, size, interpolation=cv2.INTER_AREA), ltrb * scale
    drawn = annotator.draw(image, tracks.ids, ltrb, tracks.labels())
    _, data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()


class _Stream:
    """Motion JPEG, one picture after the other, until the viewer goes or the server closes.

    A slow viewer gets the picture that is the newest when there is room for it.
    """

    media_type = f"multipart/x-mixed-replace; boundary={BOUNDARY}"

    def __init__(self, server: LiveServer, picture: _Picture) -> None:
        self._server, self._picture = server, picture

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_until_gone(receive))
        self._server._viewers += 1
        try:
            headers = [(b"content-type", self.media_type.encode()), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            # The head of the next part goes with each picture, since Chromium shows a part only when the next begins;
            # so a part's head cannot say how long it is.
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
            await _send(send, head)
            last, sent = None, time.monotonic()
            while not gone.done() and not self._server._closing:
                jpeg = await self._picture.jpeg(self._server._pool)
                now = time.monotonic()
                if jpeg is not None and (jpeg is not last or now - sent >= REPEAT_S):
                    await _send(send, jpeg + b"\r\n" + head)
                    last, sent = jpeg, now
                await asyncio.wait([gone], timeout=0.5 / PICTURES_PER_SECOND)
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # the viewer went
        finally:
            self._server._viewers -= 1
            gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


def _page(name: str, kind: str) -> Any:
    data = resources.files("edge_tracker.app.outputs.live").joinpath("page", name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(data, headers={"content-type": kind})

    return answer


def _no_camera() -> Response:
    return PlainTextResponse("no such camera; /api/status names them\n", 404)


def _unavailable(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", 503, {"retry-after": "2"})


def _verdict(good: str, bad: str, reasons: list[str]) -> Response:
    return JSONResponse({"status": bad if reasons else good, "reasons": reasons}, 503 if reasons else 200)


# ---- what is told ------------------------------------------------------------------------------------------------


class Liveness:
    """Whether the process should be restarted: frames of a camera come, but for a minute none was tracked.

    A camera that is away is no reason, nor are models that take their time to load or to build. Progress is compared
    between questions, since a camera that has just come back has not tracked a frame for as long as it was away.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}  # by camera: its progress, and since when

    def stuck(self, stats: Stats) -> list[str]:
        """The reasons, a line for each camera."""
        now, reasons = time.monotonic(), []
        for name, camera in stats.cameras.copy().items():
            progress = (camera.frames, camera.reconnects)
            seen = self._seen.get(name)
            if seen is None or seen[0] != progress or not (stats.ready and camera.connected):
                self._seen[name] = (progress, now)
            elif now - seen[1] > STUCK_S:
                reasons.append(f"{name}: connected, but no frame was tracked for {now - seen[1]:.0f} s")
        return reasons


def missing_parts(stats: Stats, cameras: list[str]) -> list[str]:
    """Why the run does not do all that it should: models that are not loaded, cameras that are away."""
    reasons = [] if stats.ready else ["the models are not loaded yet"]
    for name in cameras:
        camera = stats.cameras.get(name)
        if camera is None or not (camera.connected or camera.ended):
            reasons.append(f"{name}: {(camera.problem if camera else None) or 'not connected yet'}")
    return reasons


def camera_status(camera: CameraStats, size: tuple[int, int] | None) -> dict[str, Any]:
    """A camera's figures as JSON has them. Of durations, number and sum: who asks twice has the mean in between."""
    last = camera.last_frame
    return {
        "name": camera.name,
        "connected": camera.connected,
        "ended": camera.ended,
        "problem": camera.problem,
        "size": size,
        "fps": round(camera.fps, 2),
        "frames": camera.frames,
        "dropped": camera.dropped,
        "reconnects": camera.reconnects,
        "active": camera.active,
        "objects": camera.tracks,
        "detections": camera.detections,
        "embedded": camera.embedded,
        "frame_age_s": None if last is None else round(max(0.0, time.monotonic() - last), 3),
        "latency": _duration(camera.latency),
        "stages": {stage: _duration(histogram) for stage, histogram in camera.stages.copy().items()},
        "queues": camera.queues.copy(),
        "lost": camera.lost.copy(),
        "failing": camera.failing.copy(),
        "counts": {name: totals.copy() for name, totals in camera.totals.copy().items()},
    }


def _duration(histogram: Histogram) -> dict[str, float]:
    return {"count": histogram.count, "total_s": round(histogram.total, 6)}


# ---- who may ask -------------------------------------------------------------------------------------------------


def _resolve(host: str) -> tuple[socket.AddressFamily, str, bool]:
    """Family, numerical address, and whether it is loopback.

    Raises:
        ConfigError: there is no such address.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConfigError(f"server.host: {host} is not an address of this machine: {why}") from None
    family, _, _, _, address = found[0]
    ip = str(address[0])
    return family, ip, ipaddress.ip_address(ip.partition("%")[0]).is_loopback


def check_server(config: ServerConfig) -> None:
    """Refuse an address or a token that cannot be served with.

    Raises:
        ConfigError: naming the key.
    """
    _token_of(config, _resolve(config.host)[2])


def _token_of(config: ServerConfig, loopback: bool) -> str | None:
    """The token that requests need, or None.

    Raises:
        ConfigError: it is missing where the address is not loopback, too short, or unreadable.
    """
    token = read_secret(config.token_env, config.token_file, "server.token_env", "server.token_file")
    key = "server.token_env" if config.token_env is not None else "server.token_file"
    if token is None:
        if loopback:
            return None
        raise ConfigError(
            f"server.token_file: missing; server.host {config.host} can be reached from other machines, so requests "
            "need a token: give server.token_file or server.token_env, or listen on 127.0.0.1"
        )
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(f"{key}: the token has characters that are not plain letters, digits and signs")
    if len(token) < LEAST_TOKEN:
        raise ConfigError(
            f"{key}: the token has {len(token)} characters; it needs at least {LEAST_TOKEN}, such as `openssl rand "
            "-hex 16` gives"
        )
    return token


class _Guard:
    """Lets through what may be asked by who may ask it, and sets the headers that keep browsers in bounds.

    Args:
        app: answers what is let through.
        token: that all but /healthz need; None for none.
        hosts: names by which the server may be called: a page of another site that has its own name point to this
            machine would be called by that. None where the token tells.
        port: part of the cookie's name, since browsers send cookies to all ports of a host.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: set[str] | None, port: int) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts
        self._cookie = f"edge-tracker-{port}"
        # Not the token itself: who finds the cookie learns nothing that could be typed in elsewhere.
        self._session = "" if token is None else hmac.new(token.encode(), b"page", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_bounded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        await (self._refusal(Request(scope)) or self._app)(scope, receive, send_bounded)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that is not let through, or the one that takes its token."""
        headers = request.headers
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("only GET and HEAD\n", 405, {"allow": "GET, HEAD"})
        size = len(request.scope["raw_path"]) + len(request.scope["query_string"])
        if size + sum(len(key) + len(text) for key, text in headers.raw) > MOST_HEADER_BYTES:
            return PlainTextResponse("the request is too long\n", 431, {"connection": "close"})
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            return PlainTextResponse("requests have no body here\n", 413, {"connection": "close"})
        if self._hosts is not None and _host_of(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("this server listens to this machine only, by the name localhost\n", 421)
        if self._token is None or request.url.path == "/healthz":
            return None
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(bearer.strip(), self._token):
            return None
        if _same(_cookie(headers.get("cookie", ""), self._cookie), self._session):
            return None if "token" not in request.query_params else _without_token(request)
        if _same(request.query_params.get("token", ""), self._token):
            answer = _without_token(request)
            answer.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
            return answer
        challenge = {"www-authenticate": 'Bearer realm="edge-tracker"'}
        if "text/html" in headers.get("accept", ""):
            return HTMLResponse(SIGN_IN, 401, challenge)
        return PlainTextResponse("a token is needed: Authorization: Bearer TOKEN\n", 401, challenge)


def _same(given: str, right: str) -> bool:
    """Whether they are equal; how long that takes says nothing."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right.encode())


def _host_of(header: str) -> str:
    """The name in a Host header, without the port."""
    name = header.rpartition("]")[0].lstrip("[") if header.startswith("[") else header.partition(":")[0]
    return name.lower()


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _without_token(request: Request) -> RedirectResponse:
    # A single slash: two would lead to another host.
    return RedirectResponse(quote("/" + request.url.path.lstrip("/\\")), 303)


class _Connection(H11Protocol):
    """A connection that is closed when its peer takes nothing, or asks nothing, for a while."""

    _idle: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _seen: object = None

    @property
    def stalls(self) -> bool:
        """Whether the peer takes less than it is sent."""
        return self._stall is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle = self.loop.call_later(STALLED_S, self._look)

    def _look(self) -> None:
        """Close if nothing was asked since the last look."""
        cycle = self.cycle
        if self.transport.is_closing() or ((cycle is None or cycle.response_complete) and cycle is self._seen):
            self.transport.abort()
            return
        self._seen = cycle
        self._idle = self.loop.call_later(STALLED_S, self._look)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall()

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_stall()
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)
