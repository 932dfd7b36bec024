"""`edge-tracker eval`: score a configuration, or results."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from edge_tracker.app.commands import arguments
from edge_tracker.app.commands.exit_codes import OK
from edge_tracker.errors import ConfigError

HELP = "score a configuration, or results, on sequences with ground truth"


def add_arguments(parser: arguments.Parser) -> None:
    """Add the options."""
    arguments.sequences(parser)
    arguments.config(parser, required=False)
    parser.add_argument(
        "--results", metavar="FOLDER", help="score these SEQ.txt files instead of running a configuration"
    )
    parser.add_argument("--compare", metavar="PATH", help="also score this: a configuration, or a folder of results")
    parser.add_argument(
        "--compare-set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set a key of the configuration compared with: of --compare, or without it of --config, after --set",
    )
    arguments.sequence_names(parser)
    parser.add_argument("--output", metavar="FOLDER", help="folder to keep the result files in")
    parser.add_argument("--json", metavar="FILE", help="write the scores as JSON")
    parser.add_argument(
        "--plots", metavar="FOLDER", help="folder for plots: HOTA over its thresholds, a timeline of identities"
    )
    arguments.no_build(parser)


def run(options: argparse.Namespace) -> int:
    """Score the configuration or results, and print tables.

    Raises:
        EdgeTrackerError: the sequences, the configuration or the results cannot be used, or a package is missing.
    """
    from tempfile import TemporaryDirectory

    from edge_tracker.app.evaluation import evaluation

    if (options.config is None) == (options.results is None):
        raise ConfigError("give one of --config and --results to score")
    if options.results is not None and not Path(options.results).is_dir():
        raise ConfigError(f"--results: {options.results}: no such folder")
    other = options.compare or (options.config if options.compare_set else None)
    if options.compare_set and other is None:
        raise ConfigError("--compare-set needs --compare or --config")
    evaluation.require_trackeval()
    if options.plots is not None:
        from edge_tracker.app.evaluation import plots

        plots.require_matplotlib()
    with ExitStack() as stack:
        output = Path(options.output or stack.enter_context(TemporaryDirectory(prefix="edge-tracker-")))
        sequences = evaluation.find_sequences(options.folder, options.sequences)
        given = [(options.results or options.config, options.set, output)]
        if other is not None:
            keys = options.compare_set if options.compare else options.set + options.compare_set
            given.append((other, keys, output / "compared"))
        subjects = [evaluation.open_subject(path, keys, sequences, folder) for path, keys, folder in given]
        arguments.say_more(options)
        evaluations = [subject.evaluate(sequences, build=not options.no_build) for subject in subjects]
    for each in evaluations:
        print(f"{each.name}\n{evaluation.table(each)}\n")
    if other is not None:
        print(f"{evaluations[0].name}, compared with {evaluations[1].name}\n{evaluation.comparison(*evaluations)}\n")
    if options.json is not None:
        print(evaluation.write_json(Path(options.json), options.folder, evaluations))
    if options.plots is not None:
        for path in plots.draw_all(evaluations, Path(options.plots)):
            print(path)
    return OK
