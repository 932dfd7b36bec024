"""Progress: a bar on a terminal, elsewhere a line in the log now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

log = logging.getLogger(__name__)

LOG_EVERY_S = 10.0


class Show(Protocol):
    def __call__(self, done: float, beside: str, line: str) -> None:
        """Show the amount that is done, with `beside` next to the bar, or with `line` in the log."""


@contextmanager
def progress(**bar: Any) -> Iterator[Show]:
    """A function that shows progress until the block ends; `bar` holds tqdm's arguments."""
    if not sys.stderr.isatty():
        due = time.monotonic() + LOG_EVERY_S

        def tell(done: float, beside: str, line: str) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + LOG_EVERY_S
                log.info("%s", line)

        yield tell
        return
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with tqdm(dynamic_ncols=True, **bar) as drawn, logging_redirect_tqdm():

        def draw(done: float, beside: str, line: str) -> None:
            drawn.set_postfix_str(beside, refresh=False)
            if not drawn.update(done - drawn.n):  # not drawn yet: what stands beside it may have changed
                drawn.refresh()

        yield draw
