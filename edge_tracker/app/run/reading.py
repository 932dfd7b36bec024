"""Reading the frames of a source: the newest of a live one, all of a file."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

from edge_tracker.app.handover import WAKE_S, put_while
from edge_tracker.app.sources.frames import Frame, Source
from edge_tracker.app.sources.live import LiveSource
from edge_tracker.app.stats import CameraStats

QUEUE = 2  # frames decoded ahead


def frames_of(source: Source, stop: threading.Event, stats: CameraStats) -> Iterator[Frame]:
    """The source's frames until it ends or `stop` is set.

    Raises:
        SourceError: the source cannot be read any more.
    """
    return _newest(source, stop, stats) if isinstance(source, LiveSource) else _ahead(source, stop, stats)


def _newest(source: LiveSource, stop: threading.Event, stats: CameraStats) -> Iterator[Frame]:
    """The frames of a live source, each the newest one when it is asked for."""
    while not stop.is_set():
        start = time.perf_counter()
        frame = source.poll(WAKE_S)
        stats.dropped, stats.reconnects = source.dropped, source.reconnects
        stats.connected, stats.problem = source.connected, source.problem
        if frame is not None:
            stats.stages["read"].observe(time.perf_counter() - start)
            yield frame


def _ahead(source: Source, stop: threading.Event, stats: CameraStats) -> Iterator[Frame]:
    """The frames of a file; the next ones are decoded while one is processed."""
    frames: queue.Queue[Frame | BaseException | None] = queue.Queue(QUEUE)
    gone = threading.Event()

    def put(item: Frame | BaseException | None) -> bool:
        return put_while(lambda: not gone.is_set(), frames, item)

    def read() -> None:
        try:
            start = time.perf_counter()
            for frame in source:
                stats.stages["read"].observe(time.perf_counter() - start)
                if not put(frame):
                    return
                start = time.perf_counter()
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read, name=f"read {stats.name}", daemon=True)
    thread.start()
    stats.connected = True
    try:
        while not stop.is_set():
            try:
                item = frames.get(timeout=WAKE_S)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            if item is None:
                stats.ended = True
                return
            stats.queues["detect"] = frames.qsize()
            yield item
    finally:
        stats.connected = False
        gone.set()
        thread.join(2 * WAKE_S + 1.0)
