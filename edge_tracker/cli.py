"""The `edge-tracker` command.

What a user can put right is told in one line and exit code 2; a traceback is a bug of ours. Whatever is heavy is
imported by the command that needs it, so that help and complaints come at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from edge_tracker import __version__
from edge_tracker.errors import ConfigError, EdgeTrackerError

OK, NOT_THERE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

DESCRIPTION = "Track objects in video: finds them, tells them apart, and gives each an identity that lasts."
EXAMPLES = """\
examples:
  edge-tracker --config cam.yaml                        run until the source ends, or Ctrl-C
  edge-tracker --config cam.yaml --check                see whether it would run
  edge-tracker --config cam.yaml --source street.mp4    the same on another source
  edge-tracker --config cam.yaml --source 0             ... on the first camera
  edge-tracker --config cam.yaml --set tracker.max_age=60 --set detector.classes=[person,car]
  edge-tracker build --config cam.yaml                  build its TensorRT engines now, not at the first run
  edge-tracker doctor --config cam.yaml                 say what is missing on this machine
  edge-tracker eval MOT15/train --config cam.yaml       score it on sequences with ground truth
  edge-tracker warmup                                   compile the tracker now, not at the first run

exit codes:
  0 done (also when stopped by SIGTERM)   2 something given is wrong   130 stopped by Ctrl-C
  1 doctor: what the configuration needs is not there
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        arguments = ["--help"]
    # `run` may be left out: `edge-tracker --config cam.yaml`.
    if arguments[0] not in (*COMMANDS, "-h", "--help", "--version"):
        arguments.insert(0, "run")
    try:
        options = _parser().parse_args(arguments)
        _set_up_logging(getattr(options, "verbose", 0))
        code = options.command(options)
        sys.stdout.flush()
        return int(code)
    except EdgeTrackerError as error:
        for line in str(error).split("\n"):
            print(f"edge-tracker: error: {line}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("edge-tracker: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone; say nothing more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


class _Parser(argparse.ArgumentParser):
    """Complains in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"edge-tracker: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="edge-tracker",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        usage="edge-tracker [run] --config FILE [options]\n       edge-tracker COMMAND [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edge-tracker {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser, prog="edge-tracker"
    )
    for name, (help_text, add_arguments, command) in COMMANDS.items():
        sub = commands.add_parser(name, help=help_text, description=help_text)
        add_arguments(sub)
        sub.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: libraries, too")
        sub.set_defaults(command=command)
    # Not parsed here, as `run` is put in front of them; shown, as they are what most people come for.
    _run_arguments(parser.add_argument_group("options of run"), required=False)
    return parser


def _set_up_logging(verbose: int) -> None:
    level = logging.DEBUG if verbose > 1 else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True)
    # Until everything is open, only what is wrong is worth a line: a complaint must not drown in good news.
    logging.getLogger("edge_tracker").setLevel(logging.DEBUG if verbose else logging.WARNING)
    # But building an engine takes minutes, and must not look like a hang.
    logging.getLogger("edge_tracker.inference.engines").setLevel(logging.DEBUG if verbose else logging.INFO)


def _say_more(options: argparse.Namespace) -> None:
    if not options.verbose:
        logging.getLogger("edge_tracker").setLevel(logging.INFO)


def _whole_number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; expected a whole number of at least 1")
    return number


def _config_arguments(parser: Any, required: bool = True) -> None:
    parser.add_argument("-c", "--config", metavar="FILE", required=required, help="the configuration, a YAML file")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set any key, such as tracker.max_age=60; may be given several times",
    )


def _run_arguments(parser: Any, required: bool = True) -> None:
    _config_arguments(parser, required)
    parser.add_argument("--source", metavar="URI", help="track this instead of source.uri")
    parser.add_argument("--no-build", action="store_true", help="fail, instead of building a TensorRT engine first")
    parser.add_argument("--max-frames", metavar="N", type=_whole_number, help="stop after N frames")
    parser.add_argument("--check", action="store_true", help="check the configuration and what it names, then exit")


def _run(options: argparse.Namespace) -> int:
    from edge_tracker.app.config import load_config

    config = load_config(options.config, options.set, options.source)
    if options.check:
        from edge_tracker.app.check import check

        check(config)
        print(f"{options.config}: valid")
        return OK

    from edge_tracker.app.pipeline import Pipeline

    pipeline = Pipeline(config, build=not options.no_build)
    _say_more(options)
    try:
        with pipeline:
            pipeline.run(options.max_frames)
    finally:
        print(pipeline.summary)
    return INTERRUPTED if pipeline.summary.stopped_by is signal.SIGINT else OK


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _warmup(options: argparse.Namespace) -> int:
    from edge_tracker.tracking import warmup

    start = time.perf_counter()
    for method in ("edge", "deepsort"):
        warmup(method)
    print(f"the tracker is compiled and cached ({time.perf_counter() - start:.1f} s)")
    return OK


def _build(options: argparse.Namespace) -> int:
    from edge_tracker.app.build import build_engines
    from edge_tracker.app.config import load_config

    for path in build_engines(load_config(options.config, options.set)):
        print(path)
    return OK


def _doctor_arguments(parser: Any) -> None:
    _config_arguments(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(options: argparse.Namespace) -> int:
    from edge_tracker.app.config import load_config
    from edge_tracker.app.doctor import examine, is_ok, to_json, to_text

    if options.set and not options.config:
        raise ConfigError("--set needs --config")
    findings = examine(load_config(options.config, options.set) if options.config else None)
    print(to_json(findings) if options.json else to_text(findings))
    return OK if is_ok(findings) else NOT_THERE


def _eval_arguments(parser: Any) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="MOTChallenge sequences: SEQ/gt/gt.txt, SEQ/det/det.txt, ...")
    _config_arguments(parser, required=False)
    parser.add_argument("--results", metavar="FOLDER", help="score these SEQ.txt instead of running a configuration")
    parser.add_argument("--compare", metavar="PATH", help="score this, too: a configuration, or a folder of results")
    parser.add_argument(
        "--compare-set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set a key of what is compared with: of --compare, or else of --config beside --set",
    )
    parser.add_argument("--sequences", metavar="SEQ", nargs="+", default=[], help="these sequences only")
    parser.add_argument("--output", metavar="FOLDER", help="keep the result files here")
    parser.add_argument("--json", metavar="FILE", help="write the scores as JSON")
    parser.add_argument("--plots", metavar="FOLDER", help="draw HOTA over its thresholds, and a timeline of identities")
    parser.add_argument("--no-build", action="store_true", help="fail, instead of building a TensorRT engine first")


def _eval(options: argparse.Namespace) -> int:
    from contextlib import ExitStack
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from edge_tracker.app import evaluation

    if (options.config is None) == (options.results is None):
        raise ConfigError("give one of --config and --results: what is to be scored")
    if options.results is not None and not Path(options.results).is_dir():
        raise ConfigError(f"--results: {options.results}: no such folder")
    other = options.compare or (options.config if options.compare_set else None)
    if options.compare_set and other is None:
        raise ConfigError("--compare-set needs --compare or --config")
    evaluation.require_trackeval()
    if options.plots is not None:
        from edge_tracker.app import plots

        plots.require_matplotlib()
    with ExitStack() as stack:
        output = Path(options.output or stack.enter_context(TemporaryDirectory(prefix="edge-tracker-")))
        sequences = evaluation.find_sequences(options.folder, options.sequences)
        given = [(options.results or options.config, options.set, output)]
        if other is not None:
            keys = options.compare_set if options.compare else options.set + options.compare_set
            given.append((other, keys, output / "compared"))
        subjects = [evaluation.open_subject(path, keys, sequences, folder) for path, keys, folder in given]
        _say_more(options)
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


# What `edge-tracker NAME` is: a line of help, what it takes, what it does.
COMMANDS: dict[str, tuple[str, Callable[[Any], None], Callable[[argparse.Namespace], int]]] = {
    "run": ("track the objects of a source (the default command)", _run_arguments, _run),
    "build": ("build the TensorRT engines that a configuration needs", _config_arguments, _build),
    "doctor": ("say what this machine has, and what is wrong with it", _doctor_arguments, _doctor),
    "eval": ("score a configuration, or results, on sequences with ground truth", _eval_arguments, _eval),
    "warmup": ("compile the tracker and fill Numba's cache, so that the next start is quick", _no_arguments, _warmup),
}
