"""A whole batch, from its inputs to the summary at the end."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from edge_tracker.app.batch.cluster import Wanted, connected, share
from edge_tracker.app.batch.inputs import find_videos, printable
from edge_tracker.app.batch.progress import duration, progress
from edge_tracker.app.batch.results import Failure, Record, Results
from edge_tracker.app.batch.scheduling import Batch
from edge_tracker.app.batch.task import Task, tasks_for
from edge_tracker.app.batch.video_settings import BatchSettings
from edge_tracker.app.open_tracker import compile_ahead
from edge_tracker.app.run.signals import signals

log = logging.getLogger(__name__)


def process_videos(
    settings: BatchSettings,
    inputs: Sequence[str],
    output: Path,
    wanted: Wanted,
    address: str | None = None,
    compare_uncut: bool = False,
) -> tuple[int, signal.Signals | None]:
    """Track the videos that have no results yet, and print the summary.

    Args:
        settings: applied to each video.
        inputs: videos, folders and patterns.
        output: the folder of the results.
        wanted: the number of workers, and the share of the machine for each.
        address: of a Ray cluster; None for this machine alone.
        compare_uncut: track cut videos whole, too.

    Returns:
        The number of videos without results, and the signal that ended the batch, if one did.

    Raises:
        EdgeTrackerError: it cannot start, or cannot go on.
    """
    videos = find_videos(inputs, output)
    for line in settings.ignored:
        log.warning("%s", line)
    start = time.monotonic()
    with Results(output) as results:
        tasks: list[Task] = []
        for video, what in tasks_for(videos, settings, results, compare_uncut):
            if isinstance(what, Record):
                results.note(video, what)
            else:
                tasks.append(what)
        known = len(videos) - len(tasks)
        log.info("videos: %d, finished already: %d", len(videos), known)
        stop = None
        try:
            if tasks:
                stop = _work(settings, results, tasks, wanted, address)
        finally:
            results.write_summary(now=True)
            print(_summary(tasks, known, time.monotonic() - start, results))
    return sum(not isinstance(task.result, Record) for task in tasks), stop


def _work(
    settings: BatchSettings, results: Results, tasks: Sequence[Task], wanted: Wanted, address: str | None
) -> signal.Signals | None:
    """Track the videos that `tasks` are for; returns the signal that ended it, if one did."""
    if address is None:
        compile_ahead(settings.config.tracker.method)  # before several workers would do it at once
    with connected(address, wanted) as cluster:
        cpus, gpus = cluster.resources()
        on_gpu = settings.config.device != "cpu"
        most = len(tasks) if settings.cut is None else None
        shares = share(wanted, cpus, gpus if on_gpu else 0.0, cluster.own, most)
        log.info(
            "workers: %d; for each: CPUs %.4g, GPUs %.4g, threads of a model %d",
            *(shares.workers, shares.cpus, shares.gpus, settings.config.threads or shares.threads),
        )
        with signals() as signalled, progress() as show:
            Batch(settings, results, cluster, shares, tasks).run(signalled, show)
        return signalled.stop


def _summary(tasks: Sequence[Task], known: int, seconds: float, results: Results) -> str:
    """The summary that is printed at the end of a batch."""
    done = [(task, task.result) for task in tasks if isinstance(task.result, Record)]
    failed = [(task.video.name, task.result.reason) for task in tasks if isinstance(task.result, Failure)]
    tracked = [(task.video.name, record) for task, record in done if not task.kept]
    frames = sum(record.frames for _, record in tracked)
    left = len(tasks) - len(done) - len(failed)
    known += len(done) - len(tracked)
    parts = [f"{len(tracked)} tracked", f"{known} finished before", f"{len(failed)} failed", f"{left} left"]
    lines = [f"videos      {', '.join(part for part in parts if not part.startswith('0 ')) or 'none'}"]
    if frames:
        lines.append(f"frames      {frames}")
        lines.append(f"speed       {frames / seconds:.1f} frames per second, {duration(seconds)} in all")
    for name, record in tracked:
        if (cut := record.difference) is not None:
            lines.append(
                f"cut         {name}: {cut.cut} identities in {record.segments} segments, {cut.uncut} uncut; "
                f"{cut.whole} the same, {cut.switches} switches, IDF1 {cut.idf1:.2f}"
            )
    lines += [f"failed      {name}: {reason}" for name, reason in failed]
    lines.append(f"results     {printable(str(results.summary if results.summary.is_file() else results.folder))}")
    return "\n".join(lines)
