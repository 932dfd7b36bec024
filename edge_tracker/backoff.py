"""Growing pauses between attempts to reach something that is unavailable."""

from __future__ import annotations

import random as random_numbers
from collections.abc import Callable


class Backoff:
    """Seconds to wait before each further attempt: each pause is twice the one before, up to a limit.

    Args:
        first: seconds before the first attempt after `reset`.
        most: limit of the pauses that follow, seconds.
        scatter: lowest and highest number that a pause is multiplied by, at random, so that many clients do not all
            come back at the same moment.
        random: returns numbers in [0, 1).
    """

    def __init__(
        self,
        first: float,
        most: float,
        scatter: tuple[float, float] = (1.0, 1.0),
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        self._first, self._most = first, most
        self._scatter, self._random = scatter, random
        self.reset()

    def reset(self) -> None:
        """Start again with the first pause."""
        self._pause = self._first

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        pause, self._pause = self._pause, min(2 * self._pause, self._most)
        low, high = self._scatter
        return pause * (low + (high - low) * self._random())
