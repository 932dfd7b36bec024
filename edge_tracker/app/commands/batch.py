"""`edge-tracker batch`: track many videos in parallel."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from edge_tracker.app.commands import arguments
from edge_tracker.app.commands.exit_codes import INTERRUPTED, NOT_THERE, OK
from edge_tracker.errors import ConfigError

HELP = "track many videos in parallel, on this machine or on a Ray cluster"
EXAMPLES = """\
examples:
  edge-tracker batch --config cam.yaml --inputs 'archive/**/*.mp4' --output results
  edge-tracker batch --config cam.yaml --inputs monday tuesday/door.avi --output results --workers 4
  edge-tracker batch --config cam.yaml --inputs archive --output results --workers 4 --gpus 0.25
  edge-tracker batch --config cam.yaml --inputs /nas/archive --output /nas/results --address auto
  edge-tracker batch --config cam.yaml --inputs day.mp4 --output results --cut 600 --compare-uncut

Repeating the call continues where the last one was stopped, and does nothing once all is done. See docs/batch.md.
"""
OVERLAP_S = 10.0


def add_arguments(parser: arguments.Parser) -> None:
    """Add the options."""
    arguments.config(parser)
    parser.add_argument(
        "--inputs",
        metavar="PATH",
        nargs="+",
        action="extend",
        required=True,
        help="videos, folders, or patterns with *, ** and ? (in quotes); can be given several times",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", required=True, help="folder of the results, with a folder for each video"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=arguments.whole_number,
        help="number of videos at a time; default: one per CPU core",
    )
    parser.add_argument("--cpus", metavar="X", type=_share, help="CPUs per worker; default: an equal share of all")
    parser.add_argument(
        "--gpus", metavar="X", type=_share, help="GPUs per worker, such as 0.25; default: an equal share of all"
    )
    parser.add_argument(
        "--address", metavar="ADDRESS", help="address of a Ray cluster, or auto; default: only this machine"
    )
    parser.add_argument(
        "--cut",
        metavar="SECONDS",
        type=arguments.seconds,
        help="length of the segments that videos are cut into, to run in parallel",
    )
    parser.add_argument(
        "--overlap", metavar="SECONDS", type=arguments.seconds, help="overlap of two segments; default: 10"
    )
    parser.add_argument(
        "--compare-uncut",
        action="store_true",
        help="also track cut videos whole, and report the identities that differ",
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf") or (share > 1 and share % 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; expected a share such as 0.5, or a whole number")
    return share


def run(options: argparse.Namespace) -> int:
    """Track the videos that have no results yet.

    Raises:
        EdgeTrackerError: it cannot start, or cannot go on.
    """
    for name in ("overlap", "compare_uncut"):
        if getattr(options, name) and options.cut is None:
            raise ConfigError(f"--{name.replace('_', '-')} needs --cut")
    if options.cpus == 0:
        raise ConfigError("--cpus: 0 is not valid; a worker needs a share of a CPU, such as 0.5")
    from edge_tracker.app.batch.cluster import Wanted, import_ray
    from edge_tracker.app.batch.processing import process_videos
    from edge_tracker.app.batch.video_settings import Cut, settings_of
    from edge_tracker.app.config.loading import load_config

    arguments.say_more(options)
    import_ray(own=options.address is None)
    cut = None if options.cut is None else Cut(options.cut, OVERLAP_S if options.overlap is None else options.overlap)
    sets = [*options.set, "device=cpu"] if options.gpus == 0 else options.set
    settings = settings_of(load_config(options.config, sets, needs_source=False), cut)
    wanted = Wanted(options.workers, options.cpus, options.gpus)
    unfinished, stopped_by = process_videos(
        settings, options.inputs, Path(options.output), wanted, options.address, options.compare_uncut
    )
    if stopped_by is signal.SIGINT:
        return INTERRUPTED
    return NOT_THERE if unfinished else OK
