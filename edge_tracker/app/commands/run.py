"""`edge-tracker run`: track the objects of a source, or check the configuration."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from edge_tracker.app.commands import arguments
from edge_tracker.app.commands.exit_codes import INTERRUPTED, OK
from edge_tracker.errors import ConfigError

HELP = "track the objects of a source (the default command)"


def add_arguments(parser: arguments.Parser, required: bool = True) -> None:
    """Add the options; `required` is False if they are only shown in the help."""
    arguments.config(parser, required)
    parser.add_argument("--source", metavar="URI", help="the source, instead of source.uri")
    arguments.no_build(parser)
    parser.add_argument(
        "--max-frames", metavar="N", type=arguments.whole_number, help="stop after N frames of each camera"
    )
    parser.add_argument("--duration", metavar="SECONDS", type=arguments.seconds, help="stop after this time")
    parser.add_argument("--record", metavar="DIR", help="record the tracker's input, for `edge-tracker replay`")
    parser.add_argument(
        "--record-limit",
        metavar="MIB",
        type=arguments.whole_number,
        help="largest size of the recording; the oldest part is deleted first",
    )
    parser.add_argument(
        "--check", action="store_true", help="check the configuration and the files it names, then exit"
    )


def run(options: argparse.Namespace) -> int:
    """Run the configuration until its source ends, or check it.

    Raises:
        EdgeTrackerError: it cannot run.
    """
    from edge_tracker.app.config.loading import load_config

    config = load_config(options.config, options.set, options.source)
    if options.check:
        from edge_tracker.app.run.check import check

        check(config)
        print(f"{options.config}: valid")
        return OK

    from edge_tracker.app.run.allocation import give_back_large_blocks
    from edge_tracker.app.run.pipeline import Pipeline, RecordFolder
    from edge_tracker.app.run.supervision import Reload

    give_back_large_blocks()
    if options.record_limit is not None and options.record is None:
        raise ConfigError("--record-limit needs --record")
    pipeline = Pipeline(
        config,
        build=not options.no_build,
        record=RecordFolder(Path(options.record), options.record_limit) if options.record else None,
        reload=Reload(lambda: load_config(options.config, options.set, options.source), Path(options.config)),
    )
    arguments.say_more(options)
    try:
        with pipeline:
            pipeline.run(options.max_frames, options.duration)
    finally:
        print(pipeline.summary)
    return INTERRUPTED if pipeline.summary.stopped_by is signal.SIGINT else OK
