"""HTTP connections with time limits."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

TIMEOUT_S = 10.0  # a connection whose peer reads nothing, or requests nothing, for this long is closed


class TimedConnection(H11Protocol):
    """A connection that is closed when its peer reads nothing, or requests nothing, for `TIMEOUT_S`."""

    _idle: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _seen: object = None

    @property
    def stalled(self) -> bool:
        """True while the peer reads more slowly than data is sent."""
        return self._stall is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle = self.loop.call_later(TIMEOUT_S, self._check_idle)

    def _check_idle(self) -> None:
        """Close if there was no new request since the last check."""
        cycle = self.cycle
        if self.transport.is_closing() or ((cycle is None or cycle.response_complete) and cycle is self._seen):
            self.transport.abort()
            return
        self._seen = cycle
        self._idle = self.loop.call_later(TIMEOUT_S, self._check_idle)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_stall()

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_stall()
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)
