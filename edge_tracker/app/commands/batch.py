"""`edge-tracker batch`, from its options to what it says at the end."""

from __future__ import annotations

import argparse
import logging
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from edge_tracker.app.batch.cluster import Wanted, connected, import_ray, share
from edge_tracker.app.batch.inputs import find_videos, printable
from edge_tracker.app.batch.progress import duration, progress
from edge_tracker.app.batch.results import Failure, Record, Results
from edge_tracker.app.batch.scheduling import Batch
from edge_tracker.app.batch.task import Task, tasks_for
from edge_tracker.app.batch.video_settings import BatchSettings, Cut, settings_of
from edge_tracker.app.config.loading import load_config
from edge_tracker.app.open_tracker import compile_ahead
from edge_tracker.app.run.signals import signals

log = logging.getLogger(__name__)

OVERLAP_S = 10.0


def batch(options: argparse.Namespace) -> tuple[int, signal.Signals | None]:
    """Work through the videos; returns how many have no results, and the signal that ended it, if one did.

    Raises:
        EdgeTrackerError: it cannot begin, or cannot go on.
    """
    import_ray(own=options.address is None)
    cut = None if options.cut is None else Cut(options.cut, OVERLAP_S if options.overlap is None else options.overlap)
    sets = [*options.set, "device=cpu"] if options.gpus == 0 else options.set
    settings = settings_of(load_config(options.config, sets, needs_source=False), cut)
    output = Path(options.output)
    videos = find_videos(options.inputs, output)
    for line in settings.ignored:
        log.warning("%s", line)
    start = time.monotonic()
    with Results(output) as results:
        tasks: list[Task] = []
        for video, what in tasks_for(videos, settings, results, options.compare_uncut):
            if isinstance(what, Record):
                results.note(video, what)
            else:
                tasks.append(what)
        known = len(videos) - len(tasks)
        log.info("videos: %d, finished already: %d", len(videos), known)
        stop = None
        try:
            if tasks:
                stop = _work(options, settings, results, tasks)
        finally:
            results.write_summary(now=True)
            print(_summary(tasks, known, time.monotonic() - start, results))
    return sum(not isinstance(task.result, Record) for task in tasks), stop


def _work(
    options: argparse.Namespace, settings: BatchSettings, results: Results, tasks: Sequence[Task]
) -> signal.Signals | None:
    """Have the videos worked on; returns the signal that ended it, if one did."""
    wanted = Wanted(options.workers, options.cpus, options.gpus)
    if options.address is None:
        compile_ahead(settings.config.tracker.method)  # before several workers would do it at once
    with connected(options.address, wanted) as cluster:
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
    """What was done, as a person reads it at the end."""
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
