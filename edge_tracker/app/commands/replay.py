"""`edge-tracker replay`: repeat the tracking of a recording, with results, a check, an explanation and a summary."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edge_tracker.app.commands import arguments
from edge_tracker.app.commands.exit_codes import NOT_THERE, OK
from edge_tracker.errors import ConfigError

if TYPE_CHECKING:
    from edge_tracker.app.replay.explanation import Explanation
    from edge_tracker.app.replay.replaying import RecordedFrame, Replay
    from edge_tracker.track_arrays import TrackArrays

HELP = "repeat the tracking of a recorded run, and explain its tracks"

log = logging.getLogger(__name__)


def add_arguments(parser: arguments.Parser) -> None:
    """Add the options."""
    parser.add_argument("recording", metavar="PATH", help="the folder that `run --record` wrote to, or a file in it")
    parser.add_argument(
        "--run", metavar="N", type=arguments.whole_number, help="number of the run in the folder; default: the last"
    )
    parser.add_argument(
        "--set",
        metavar="tracker.KEY=VALUE",
        action="append",
        default=[],
        help="change a key of tracker; can be given several times",
    )
    parser.add_argument("--mot", metavar="FILE", help="write MOTChallenge text")
    parser.add_argument("--jsonl", metavar="FILE", help="write JSON lines")
    parser.add_argument("--check", action="store_true", help="exit with 1 unless all tracks are reproduced bit for bit")
    parser.add_argument(
        "--explain", metavar="ID", type=arguments.whole_number, help="explain why this track matched its detections"
    )
    parser.add_argument("--frames", metavar="A:B", type=_frame_range, help="explain only these frames; also A: or :B")
    parser.add_argument("--json", action="store_true", help="print the explanation as JSON lines, and nothing else")


def _frame_range(text: str) -> tuple[int | None, int | None]:
    first, colon, last = text.partition(":")
    try:
        ends = (int(first) if first else None, int(last if colon else first) if last or not colon else None)
    except ValueError:
        ends = (None, None)
    if ends == (None, None) or (ends[0] is not None and ends[1] is not None and ends[0] > ends[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; expected frames such as 100:120, 100:, :120 or 100")
    return ends


def run(options: argparse.Namespace) -> int:
    """Replay the recording; NOT_THERE if a check was asked for and something differs.

    Raises:
        SourceError, ConfigError, OutputError, InputError: as for `Recording`, `Replay`, the sinks and `Explainer`.
    """
    if options.check and options.set:
        raise ConfigError("--check with --set: other settings give other tracks; omit one of the two")
    for name in ("json", "frames"):
        if getattr(options, name) and options.explain is None:
            raise ConfigError(f"--{name} needs --explain")
    from edge_tracker.app.open_tracker import compile_ahead
    from edge_tracker.app.outputs.sinks import JsonlSink, MotSink, Sink, check_output
    from edge_tracker.app.replay.replaying import Difference, NotRecorded, Recording, Replay
    from edge_tracker.app.replay.writing import write_tracks

    arguments.say_more(options)
    for path in (options.mot, options.jsonl):
        if path is not None:
            check_output(Path(path))
    recording = Recording(options.recording, options.run)
    replay = Replay(recording, options.set)
    compile_ahead(replay.tracker.method)
    start = time.perf_counter()
    with ExitStack() as stack:
        sinks: list[Sink] = []
        for path, make in ((options.mot, MotSink), (options.jsonl, JsonlSink)):
            if path is not None:
                sinks.append(make(Path(path)))
                stack.callback(sinks[-1].close)
        try:
            for frame, tracks, explanation in _stepped(replay, options):
                write_tracks(sinks, frame, tracks)
                if explanation is not None:
                    print(explanation.to_json() if options.json else explanation, flush=True)
        except NotRecorded as error:
            if not options.check:
                raise
            replay.result.difference = Difference(error.frame, str(error).partition(": ")[2])
    seconds = time.perf_counter() - start
    if not options.json:
        print(_summary(replay, seconds, [sink.path for sink in sinks], options.check))
    if replay.result.missing:
        log.warning(
            "%d of %d features that these settings ask for were not recorded; those detections had no appearance",
            replay.result.missing, replay.result.embedded,
        )  # fmt: skip
    if options.check and options.json and replay.result.difference is not None:
        log.warning("%s", _judgement(replay))
    return NOT_THERE if options.check and replay.result.difference is not None else OK


def _stepped(
    replay: Replay, options: argparse.Namespace
) -> Iterator[tuple[RecordedFrame, TrackArrays, Explanation | None]]:
    if options.explain is not None:
        from edge_tracker.app.replay.explain import Explainer

        yield from Explainer(replay, options.explain, *(options.frames or (None, None)))
        return
    from tqdm import tqdm

    frames: Iterable[tuple[RecordedFrame, TrackArrays]] = replay
    for frame, tracks in tqdm(frames, unit=" frames", dynamic_ncols=True, disable=not sys.stderr.isatty()):
        yield frame, tracks, None


def _summary(replay: Replay, seconds: float, outputs: list[Path], check: bool) -> str:
    header, result = replay.recording.header, replay.result
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
        lines.append(f"check       {_judgement(replay)}")
    return "\n".join(lines)


def _judgement(replay: Replay) -> str:
    difference = replay.result.difference
    if difference is None:
        return f"reproduced bit for bit: {replay.result.frames} frames"
    others = replay.other_versions()
    return f"first difference at {difference}" + (f" (here: {', '.join(others)})" if others else "")
