"""Running a model for a detector or an embedder, with a fallback while its server is unavailable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from edge_tracker.errors import ConfigError
from edge_tracker.inference.availability import ServerStatus
from edge_tracker.inference.model import Feeds, Model, Outputs


class StandIn(Protocol):
    """A detector or an embedder with a model of its own."""

    @property
    def model(self) -> Model: ...

    def close(self) -> None: ...


F = TypeVar("F", bound=StandIn)


class Runner(Generic[F]):
    """Runs a model, and a fallback on the inputs that the model does not process in time.

    A model in this process is always available. One on a server may not be; with a fallback, not even at the start.

    Args:
        model: the model.
        fallback: works while the model's server is unavailable. Closed with the runner.
        owned: True if the model is closed with the runner.

    Attributes:
        model: the model.
    """

    def __init__(self, model: Model, fallback: F | None, *, owned: bool) -> None:
        self.model = model
        self._fallback, self._owned = fallback, owned
        self._prepared = False

    @property
    def status(self) -> ServerStatus | None:
        """The state of a model on a server, and its counts; None for a model in this process."""
        return None if self.model.availability is None else self.model.availability.status

    @property
    def ready(self) -> bool:
        """True if the model is prepared and its server, if it has one, is up."""
        return self._prepared and (self.status is None or self.status.up)

    def start(self, prepare: Callable[[], None], *, does: str, otherwise: str) -> None:
        """Call `prepare` as soon as the model can run: now, or later in another thread, until it succeeds.

        Args:
            prepare: reads the model's inputs and outputs.
            does: a verb for the log, for the fallback's work while the server is unavailable.
            otherwise: the consequence of an unavailable server without a fallback, in words, for the log.

        Raises:
            ConfigError: there is a fallback, but the model is not on a server.
            ModelError, ConfigError: raised by `prepare`, if it is called now. The runner is closed then.
        """

        def prepare_it() -> None:
            prepare()
            self._prepared = True

        availability, fallback = self.model.availability, self._fallback
        try:
            if availability is None:
                if fallback is not None:
                    raise ConfigError(f"{self.model.name}: not on a server, so it cannot have a fallback")
                prepare_it()
                return
            availability.meanwhile = otherwise if fallback is None else f"{fallback.model.name} {does}"
            availability.when_up(prepare_it)
        except BaseException:
            self.close()
            raise

    def run(
        self, rows: Sequence[int], ask: Callable[[], Sequence[int]], instead: Callable[[F, Sequence[int]], None]
    ) -> None:
        """Run the model on some rows (crops or frames), and the fallback on those that the model missed.

        Rows that are missed once the deadline is over are lost: the fallback would make them even later.

        Args:
            rows: numbers of the rows.
            ask: runs the model; returns the rows that it missed. Not called while the model is unavailable.
            instead: runs the fallback on the rows given.
        """
        availability = self.model.availability
        if availability is None:
            ask()
            return
        start, status = time.monotonic(), availability.status
        missed = ask() if self.ready else rows
        if len(missed) and self._fallback is not None and time.monotonic() - start < availability.deadline:
            instead(self._fallback, missed)
            status.fallback += len(missed)
        else:
            status.lost += len(missed)

    def stream(self, batches: Iterable[Feeds]) -> Iterator[Outputs | None]:
        """As `Model.stream`."""
        return self.model.stream(batches)

    def refuse(self, reason: str) -> bool:
        """Count a model on a server as unavailable, since its outputs cannot be used.

        Returns:
            False for a model in this process, which cannot be unavailable.
        """
        availability = self.model.availability
        if availability is None:
            return False
        availability.refuse(reason)
        return True

    def close(self) -> None:
        """Free the model, if it is owned, and the fallback."""
        if self._owned:
            self.model.close()
        if self._fallback is not None:
            self._fallback.close()
