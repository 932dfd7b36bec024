"""The server of the live page: start, thread and shutdown."""

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
SEND_BUFFER = 256 * 1024  # bytes in the kernel for each connection; bounds how far a slow viewer falls behind


class LiveServer:
    """Serves the live page, metrics and health probes of a run from a thread of its own.

    Args:
        config: the address to listen on, and the location of the token.
        stats: figures of the run, read at each request.
        cameras: names of the cameras, in the order in which the page shows them.

    Attributes:
        address: host and port that the server listens on.

    Raises:
        ConfigError: the address does not exist, or the token is missing, too short or unreadable.
    """

    def __init__(self, config: ServerConfig, stats: Stats, cameras: list[str]) -> None:
        self._config = config
        self._stats = stats
        self._access = access_of(config)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="live-image")
        self._images = {name: CameraImage(self._pool) for name in cameras}
        self._viewers = Viewers()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.address = (config.host, config.port)

    def start(self) -> None:
        """Start to listen and serve. With port 0, `address` has the port that was chosen.

        Raises:
            OutputError: listening on the address failed.
        """
        host, port, access = self._config.host, self._config.port, self._access
        try:
            listener = socket.create_server((access.ip, port), family=access.family, backlog=MAX_CONNECTIONS)
        except OSError as error:
            raise OutputError(
                f"server.port: cannot listen on port {port} of {host}: {error.strerror}; is another edge-tracker "
                "running? Use another port, or 0 for any free one"
            ) from None
        # Accepted connections inherit this option.
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
            log.exception("the live page has stopped; tracking continues")
        finally:
            listener.close()

    def show(self, camera: str, frame: Frame, tracks: FrameTracks) -> None:
        """Keep the newest frame of a camera and its tracks. Returns at once; neither may be modified afterwards."""
        self._images[camera].newest = (frame, tracks)

    def close(self) -> None:
        """End all responses, and stop listening."""
        self._viewers.closing = True
        if self._thread is not None and self._server is not None:
            self._server.should_exit = True
            if self._loop is not None:
                with suppress(RuntimeError):  # the loop has already ended
                    self._loop.call_soon_threadsafe(self._abort_stalled)
            self._thread.join(5.0)
            self._thread = None
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _abort_stalled(self) -> None:
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, TimedConnection) and connection.stalled:
                connection.transport.abort()
