"""The server of the live page and of the endpoints that monitoring asks: its start, its thread and its end."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import uvicorn

from edge_tracker.app.config.schema import ServerConfig
from edge_tracker.app.frame_results import FrameTracks
from edge_tracker.app.outputs.live.access import access_of
from edge_tracker.app.outputs.live.camera_image import CameraImage
from edge_tracker.app.outputs.live.connections import TimedConnection
from edge_tracker.app.outputs.live.endpoints import Endpoints
from edge_tracker.app.outputs.live.guard import MAX_REQUEST_BYTES, Guard
from edge_tracker.app.outputs.live.mjpeg import Viewers
from edge_tracker.app.sources.frames import Frame
from edge_tracker.app.stats import Stats
from edge_tracker.errors import OutputError

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 100
SEND_BUFFER = 256 * 1024  # in the kernel, for each connection; a slow viewer sees what is not older than this


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
        self._access = access_of(config)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="live-picture")
        self._images = {name: CameraImage(self._pool) for name in cameras}
        self._viewers = Viewers()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.address = (config.host, config.port)

    def start(self) -> None:
        """Listen, and serve from now on. `address` has the port that was taken.

        Raises:
            OutputError: the address cannot be listened on.
        """
        host, port, access = self._config.host, self._config.port, self._access
        try:
            listener = socket.create_server((access.ip, port), family=access.family, backlog=MAX_CONNECTIONS)
        except OSError as error:
            raise OutputError(
                f"server.port: {port} on {host} cannot be listened on: {error.strerror}; is another edge-tracker "
                "running? Give another port, or 0 for any free one"
            ) from None
        # Accepted connections take it over.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.address = (host, listener.getsockname()[1])
        endpoints = Endpoints(self._stats, self._images, self._viewers)
        settings = uvicorn.Config(
            Guard(endpoints.app(), access, self.address[1]),
            http=TimedConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_REQUEST_BYTES,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._serve, args=(listener,), name="live-server", daemon=True)
        self._thread.start()
        shown = f"[{host}]" if ":" in host else host
        log.info("live page: http://%s:%d/%s", shown, self.address[1], " (asks for the token)" if access.token else "")

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
        self._images[camera].newest = (frame, tracks)

    def close(self) -> None:
        """End all answers, and stop listening."""
        self._viewers.closing = True
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
            if isinstance(connection, TimedConnection) and connection.stalled:
                connection.transport.abort()

    # ---- answers -------------------------------------------------------------------------------------------------
