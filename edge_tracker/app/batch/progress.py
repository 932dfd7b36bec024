"""The progress of a batch, in words and as `edge_tracker.app.run.progress_bar` shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge_tracker.app.run.progress_bar import progress as shown


@dataclass
class BatchProgress:
    """The progress of a batch.

    Attributes:
        videos: number of videos to be processed.
        done, failed: those that are done or have failed.
        share: share of the work that is done, 0 to 1, by the sizes of the files.
        fps: frames per second, of all workers.
        workers: workers that are ready.
        seconds_left: estimated time left; None if there is no estimate yet.
    """

    videos: int
    done: int = 0
    failed: int = 0
    share: float = 0.0
    fps: float = 0.0
    workers: int = 0
    seconds_left: float | None = None

    def __str__(self) -> str:
        if not self.workers and not self.done:
            return "waiting for workers"
        parts = [f"{self.done + self.failed} of {self.videos} videos"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        parts.append(f"{self.fps:.1f} frames per second")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


@contextmanager
def progress() -> Iterator[Callable[[BatchProgress], None]]:
    """A function that shows the progress of the batch, until the block ends."""
    shape = "{percentage:3.0f}%|{bar}| {elapsed}{postfix}"
    with shown(total=1, bar_format=shape) as show:
        yield lambda progress: show(progress.share, str(progress), f"{100 * progress.share:.0f} %: {progress}")
