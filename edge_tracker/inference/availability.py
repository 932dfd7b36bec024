"""A model on a server that may go away: it is left alone while it is away, and tried until it is back.

Nothing here knows a protocol; `edge_tracker.inference.triton.client` connects to a server and asks it.
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
START_S = 10.0  # for the first contact: a server runs a model slowly the first time
PROBE_S = 1.0  # for what is asked of a server that was away
# Between probes of a server that is away: the first, and the longest.
PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
# One that fails again within this time, since it is too slow for whole frames, is left alone for longer each time, at
# most so long: each try costs a frame its deadline, and the log two lines.
STEADY_S, LEFT_ALONE_S = 10.0, 60.0


@dataclass
class ServerStatus:
    """How it is with a served model. Each figure has one writer; readers take what is there.

    Attributes:
        name: its address.
        up: whether it is asked at present.
        problem: why it is not; None while it is.
        outages: how often it went away.
        lost: crops, or frames, that it was to see and nobody saw.
        fallback: those that the fallback saw instead.
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
        """Give it up, with what is under way on it."""


C = TypeVar("C", bound=Connection)
C_co = TypeVar("C_co", bound=Connection, covariant=True)


class Connects(Protocol[C_co]):
    """A client that can open connections to one served model.

    Attributes:
        name: the model's address.
    """

    name: str

    def connect(self, timeout: float, trial: float) -> C_co:
        """Open a connection, and see that the model runs and is the one it was.

        Args:
            timeout: seconds for each question about the model.
            trial: seconds that it may take to run.

        Raises:
            ServerError: no answer.
            ModelError: a model that cannot be used, or not the one it was.
        """

    def forget(self) -> None:
        """Accept any model at the next connection: nobody has used the one that was there."""


class Availability(Generic[C]):
    """Whether a served model can be asked.

    When a request fails or does not come back in time the model counts as away. Then nothing is sent, and a thread
    tries to connect until the server answers in time again, with the same model.

    Args:
        client: opens the connections.
        deadline: seconds that the batches of one frame may take together.

    Attributes:
        deadline: seconds.
        status: whether the model is up, and what was lost.
        meanwhile: what happens while it is away, in words, for the log.
    """

    def __init__(self, client: Connects[C], deadline: float) -> None:
        self.deadline = deadline
        self.status = ServerStatus(client.name)
        self.meanwhile = "what it was to see counts as not seen"
        self._client = client
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._connection: C | None = None
        self._prepare: Callable[[], None] | None = None
        self._seeker: threading.Thread | None = None
        self._answers = False  # also while `prepare` is at work, before `status` says so
        self._pauses = Backoff(PAUSE_S, LEFT_ALONE_S)
        self._pause = self._pauses.next()
        self._since = time.monotonic()

    def start(self, *, required: bool) -> None:
        """Connect for the first time.

        Args:
            required: False if the server may be away for now. Then call `when_up`.

        Raises:
            ServerError: no server answers, or it has no such model.
            ModelError: a model that cannot be used.
        """
        try:
            self._connect(START_S, START_S)
        except ServerError as error:
            if required:
                raise ServerError(f"{error}; start it and load the model, or give a local model as fallback") from error
            self.status.problem = self._without_name(error)

    def when_up(self, prepare: Callable[[], None]) -> None:
        """Call `prepare` as soon as the model can be run: now, or later, in another thread, until it succeeds.

        Raises:
            ModelError, ConfigError: what `prepare` raises, if it is called now.
        """
        if self.status.up:
            prepare()
            return
        self._prepare = prepare
        self.status.outages += 1
        self._tell_away(self.status.problem)
        self._seek()

    def connection(self) -> C | None:
        """The connection to send on; None while the model is away."""
        with self._lock:
            return self._connection if self._answers else None

    def lose(self, connection: C, reason: str) -> None:
        """A request on a connection has failed: count the model as away."""
        with self._lock:
            if connection is not self._connection or not self._answers:
                return
            self._answers = False
            self.status.problem = reason
            if not self.status.up:  # whoever prepares is told, and tries again
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
        """Count the model as away: what it gives is of no use."""
        with self._lock:
            connection = self._connection
        if connection is not None:
            self.lose(connection, reason)

    def close(self) -> None:
        """Give up the connection. Nothing can be asked afterwards."""
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
        """Try until the model answers again."""
        name, since, refused = self.status.name, self._since, ""
        pauses = Backoff(self._pause, LONGEST_PAUSE_S)
        while not self._closed.wait(pauses.next()):
            try:
                self._connect(max(PROBE_S, self.deadline), self.deadline)
            except ServerError as error:
                logger.debug("%s", error)
                self.status.problem = self._without_name(error)
            except Exception as error:  # a model that cannot be used, for whatever reason: not at the price of the run
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
        """Use the model over a connection of its own. Arguments and errors as of `Connects.connect`."""
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
        """The message of an error without the address at its front."""
        return str(error).removeprefix(f"{self.status.name}: ") or type(error).__name__
