"""`edge-tracker replay`: results, a check, an explanation and a summary of a replay."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from edge_tracker.app.open_tracker import compile_ahead
from edge_tracker.app.outputs.sinks import JsonlSink, MotSink, Sink, check_output
from edge_tracker.app.replay.explain import Explainer
from edge_tracker.app.replay.explanation import Explanation
from edge_tracker.app.replay.replaying import Difference, NotRecorded, RecordedFrame, Recording, Replay
from edge_tracker.app.replay.writing import write_tracks
from edge_tracker.track_arrays import TrackArrays

log = logging.getLogger(__name__)

Stepped = tuple[RecordedFrame, TrackArrays, Explanation | None]


def replay(options: argparse.Namespace) -> bool:
    """Do what the command line asks.

    Returns:
        False if a check was asked for and something differs.

    Raises:
        SourceError, ConfigError, OutputError, InputError: as for `Recording`, `Replay`, the sinks and `Explainer`.
    """
    for path in (options.mot, options.jsonl):
        if path is not None:
            check_output(Path(path))
    recording = Recording(options.recording, options.run)
    run = Replay(recording, options.set)
    compile_ahead(run.tracker.method)
    start = time.perf_counter()
    with ExitStack() as stack:
        sinks: list[Sink] = []
        for path, make in ((options.mot, MotSink), (options.jsonl, JsonlSink)):
            if path is not None:
                sinks.append(make(Path(path)))
                stack.callback(sinks[-1].close)
        try:
            for frame, tracks, explanation in _stepped(run, options):
                write_tracks(sinks, frame, tracks)
                if explanation is not None:
                    print(explanation.to_json() if options.json else explanation, flush=True)
        except NotRecorded as error:
            if not options.check:
                raise
            run.result.difference = Difference(error.frame, str(error).partition(": ")[2])
    seconds = time.perf_counter() - start
    if not options.json:
        print(_summary(run, seconds, [sink.path for sink in sinks], options.check))
    if run.result.missing:
        log.warning(
            "%d of %d features that these settings ask for were not recorded; those detections had no appearance",
            run.result.missing, run.result.embedded,
        )  # fmt: skip
    if options.check and options.json and run.result.difference is not None:
        log.warning("%s", _judgement(run))
    return not options.check or run.result.difference is None


def _stepped(run: Replay, options: argparse.Namespace) -> Iterator[Stepped]:
    if options.explain is not None:
        yield from Explainer(run, options.explain, *(options.frames or (None, None)))
        return
    frames: Iterable[tuple[RecordedFrame, TrackArrays]] = run
    for frame, tracks in tqdm(frames, unit=" frames", dynamic_ncols=True, disable=not sys.stderr.isatty()):
        yield frame, tracks, None


def _summary(run: Replay, seconds: float, outputs: list[Path], check: bool) -> str:
    header, result = run.recording.header, run.result
    camera = f", camera {header['camera']}" if header["camera"] else ""
    began = f"{header['began']}{camera}, edge-tracker {header['versions'].get('edge-tracker', 'of unknown version')}"
    lines = [
        f"recorded    {began}",
        f"frames      {result.frames}",
        f"tracks      {result.tracks}",
        f"speed       {result.frames / seconds if seconds > 0 else 0:.1f} frames per second",
    ]
    if result.embedded:
        lines.append(f"embedded    {100 * result.embedded / result.detections:.1f} % of {result.detections} detections")
    lines += [f"{'results' if i == 0 else '':<12}{path}" for i, path in enumerate(outputs)]
    if check:
        lines.append(f"check       {_judgement(run)}")
    return "\n".join(lines)


def _judgement(run: Replay) -> str:
    difference = run.result.difference
    if difference is None:
        return f"reproduced bit for bit: {run.result.frames} frames"
    others = run.other_versions()
    return f"first difference at {difference}" + (f" (here: {', '.join(others)})" if others else "")
