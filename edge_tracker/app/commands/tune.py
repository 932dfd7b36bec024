"""`edge-tracker tune`: search parameters of the tracker."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_tracker.app.commands import arguments
from edge_tracker.app.commands.exit_codes import OK

HELP = "search for better tracker parameters on sequences with ground truth, and evaluate them on others"


def add_arguments(parser: arguments.Parser) -> None:
    """Add the options."""
    arguments.sequences(parser)
    arguments.config(parser)
    parser.add_argument(
        "--trials",
        metavar="N",
        type=arguments.whole_number,
        default=50,
        help="number of settings to try in each study (default: 50)",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        default="tuning",
        help="folder of recordings and trials; a second call continues with them (default: tuning)",
    )
    arguments.sequence_names(parser)
    arguments.no_build(parser)


def run(options: argparse.Namespace) -> int:
    """Search, and print the report.

    Raises:
        EdgeTrackerError: the sequences or the configuration cannot be used, or a package is missing.
    """
    from edge_tracker.app.config.loading import load_config
    from edge_tracker.app.evaluation import evaluation, tuning

    evaluation.require_trackeval()
    tuning.require_optuna()
    sequences = evaluation.find_sequences(options.folder, options.sequences)
    config = load_config(options.config, options.set, source=str(sequences[0].folder))
    arguments.say_more(options)
    print(tuning.report(tuning.tune(config, sequences, Path(options.output), options.trials, not options.no_build)))
    return OK
