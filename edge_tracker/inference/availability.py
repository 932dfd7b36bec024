"""The availability of a model on a server: requests stop when it fails, and start again when it answers in time.

Nothing here knows a network protocol; `edge_tracker.inference.triton.client` does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from edge_tracker.backoff import Backoff
from edge_tracker.errors import ServerError

logger = logging.getLogger(__name__)

DEADLINE_MS = 250
START_S = 10.0  # limit for the first contact: the first run of a model is slow
PROBE_S = 1.0  # limit for a question to a server that was unavailable
# Shortest and longest pause between probes of an unavailable server.
PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
# A server that fails again within STEADY_S is too slow for whole frames. Each further attempt costs a frame its
# deadline and the log two lines, so the pause before it doubles each time, up to LEFT_ALONE_S.
STEADY_S, LEFT_ALONE_S = 10.0, 60.0


@dataclass
class ServerStatus:
    """The state of a model on a server, and its counts. Each field has one writer, and is read without a lock.

    Attributes:
        name: its address.
        up: True while requests are sent to it.
        problem: the reason why not; None while it is up.
        outages: number of times it became unavailable.
        lost: crops or frames meant for it that were not processed at all.
        fallback: crops or frames that the fallback processed instead.
    """

    name: str
    up: bool = False
    problem: str | None = None
    outages: int = 0
    lost: int = 0
    fallback: int = 0


class Connection(Protocol):
    """An open connection to a served model."""

    def close(self) -> None:
        """Close it; requests in flight on it are lost."""


C = TypeVar("C", bound=Connection)
C_co = TypeVar("C_co", bound=Connection, covariant=True)


class Connects(Protocol[C_co]):
    """A client that can open connections to one model on a server.

    Attributes:
        name: the model's address.
    """

    name: str

    def connect(self, timeout: float, trial: float) -> C_co:
        """Open a connection, and check that the model runs and is still the same.

        Args:
            timeout: limit for each question about the model, seconds.
            trial: limit for a trial run, seconds.

        Raises:
            ServerError: no answer.
            ModelError: the model cannot be used, or is another one than before.
        """

    def forget(self) -> None:
        """Accept any model at the next connection, since the last one was never used."""


class Availability(Generic[C]):
    """A circuit breaker for a model on a server.

    When a request fails or is late, the model counts as unavailable. Then nothing is sent, and a thread tries to
    connect until the server answers in time again, with the same model.

    Args:
        client: opens the connections.
        deadline: time limit for all batches of one frame together, seconds.

    Attributes:
        deadline: the same; may be changed at any time.
        status: the state of the model.
        meanwhile: what happens while it is unavailable, in words, for the log.
    """

    def __init__(self, client: Connects[C], deadline: float) -> None:
        self.deadline = deadline
        self.status = ServerStatus(client.name)
        self.meanwhile = "its inputs are not processed"
        self._client = client
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._connection: C | None = None
        self._prepare: Callable[[], None] | None = None
        self._seeker: threading.Thread | None = None
        self._answers = False  # True already while `prepare` runs, before `status.up` is
        self._pauses = Backoff(PAUSE_S, LEFT_ALONE_S)
        self._pause = self._pauses.next()
        self._since = time.monotonic()

    def start(self, *, required: bool) -> None:
        """Connect for the first time.

        Args:
            required: False if the server may be unavailable for now. Then call `when_up`.

        Raises:
            ServerError: no server answers, or it has no such model.
            ModelError: the model cannot be used.
        """
        try:
            self._connect(START_S, START_S)
        except ServerError as error:
            if required:
                raise ServerError(f"{error}; start it and load the model, or give a local model as fallback") from error
            self.status.problem = self._without_name(error)

    def when_up(self, prepare: Callable[[], None]) -> None:
        """Call `prepare` as soon as the model can run: now, or later in another thread, until it succeeds.

        Raises:
            ModelError, ConfigError: raised by `prepare`, if it is called now.
        """
        if self.status.up:
            prepare()
            return
        self._prepare = prepare
        self.status.outages += 1
        self._tell_away(self.status.problem)
        self._seek()

    def connection(self) -> C | None:
        """The connection to send on; None while the model is unavailable."""
        with self._lock:
            return self._connection if self._answers else None

    def lose(self, connection: C, reason: str) -> None:
        """Count the model as unavailable, since a request on this connection failed."""
        with self._lock:
            if connection is not self._connection or not self._answers:
                return
            self._answers = False
            self.status.problem = reason
            if not self.status.up:  # it failed in `prepare`; `_connect` reports that and tries again
                return
            self.status.up = False
            self.status.outages += 1
            if time.monotonic() - self._since >= STEADY_S:
                self._pauses.reset()
            self._pause = self._pauses.next()
            self._since = time.monotonic()
        self._tell_away(reason)
        self._seek()

    def refuse(self, reason: str) -> None:
        """Count the model as unavailable, since its outputs cannot be used."""
        with self._lock:
            connection = self._connection
        if connection is not None:
            self.lose(connection, reason)

    def close(self) -> None:
        """Close the connection. Nothing can be sent afterwards."""
        self._closed.set()
        if self._seeker is not None and self._seeker is not threading.current_thread():
            self._seeker.join(2 * PROBE_S)
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _tell_away(self, reason: str | None) -> None:
        logger.warning("%s: away (%s); %s", self.status.name, reason, self.meanwhile)

    def _seek(self) -> None:
        if not self._closed.is_set():
            self._seeker = threading.Thread(target=self._win_back, name=f"seek {self.status.name}", daemon=True)
            self._seeker.start()

    def _win_back(self) -> None:
        """Try to connect until the model answers again."""
        name, since, refused = self.status.name, self._since, ""
        pauses = Backoff(self._pause, LONGEST_PAUSE_S)
        while not self._closed.wait(pauses.next()):
            try:
                self._connect(max(PROBE_S, self.deadline), self.deadline)
            except ServerError as error:
                logger.debug("%s", error)
                self.status.problem = self._without_name(error)
            except Exception as error:  # the model cannot be used; whatever the reason, the run goes on
                self.status.problem = self._without_name(error)
                if str(error) != refused:
                    refused = str(error)
                    logger.error("%s: answers, but is not used: %s", name, self.status.problem)
            else:
                lost, instead = self.status.lost, self.status.fallback
                by = f", {instead} seen by the fallback" if instead else ""
                away = time.monotonic() - since
                logger.warning("%s: back after %.1f s; %d lost so far%s", name, away, lost, by)
                return

    def _connect(self, timeout: float, trial: float) -> None:
        """Replace the connection by a new one. Arguments and errors are those of `Connects.connect`."""
        unused: C | None = self._client.connect(timeout, trial)
        try:
            with self._lock:
                if self._closed.is_set():
                    raise ServerError(f"{self.status.name}: closed")
                self._connection, unused = unused, self._connection
                self._answers = True
            if self._prepare is not None:
                try:
                    self._prepare()
                except BaseException:
                    self._answers = False
                    self._client.forget()
                    raise
                self._prepare = None
            with self._lock:
                if not self._answers:
                    raise ServerError(f"{self.status.name}: {self.status.problem}")
                self.status.problem, self._since, self.status.up = None, time.monotonic(), True
        finally:
            if unused is not None:
                unused.close()

    def _without_name(self, error: BaseException) -> str:
        """The message of an error without the address in front."""
        return str(error).removeprefix(f"{self.status.name}: ") or type(error).__name__
