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
from pathlib import Path
from typing import Any, NoReturn

from edge_tracker.app.commands.jsonlog import JsonFormatter
from edge_tracker.errors import ConfigError, EdgeTrackerError
from edge_tracker.version import __version__

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
  edge-tracker batch --config cam.yaml --inputs 'archive/**/*.mp4' --output results
                                                        the same on many videos at once, on Ray
  edge-tracker replay recording --check                 track again through what `run --record recording` wrote
  edge-tracker tune MOT15/train --config cam.yaml       search better parameters, and see whether they are
  edge-tracker warmup                                   compile the tracker now, not at the first run

exit codes:
  0 done (also when stopped by SIGTERM)   2 something given is wrong   130 stopped by Ctrl-C
  1 doctor: what the configuration needs is not there; replay --check: not reproduced; batch: a video failed, or was
    left when SIGTERM came
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        arguments = ["--help"]
    # `run` may be left out: `edge-tracker --config cam.yaml`. A word in front is meant as a command, and argparse says
    # which there are.
    if arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version"):
        arguments.insert(0, "run")
    try:
        options = _parser().parse_args(arguments)
        _set_up_logging(getattr(options, "verbose", 0), getattr(options, "log_format", "text") == "json")
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


def entry() -> NoReturn:
    """Run the command line and end the process."""
    code = main()
    live = sys.modules.get("edge_tracker.app.sources.live")  # not imported for what reads no source
    if live is not None and live.some_hang():
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)  # all that was opened has been closed, but for a camera that does not answer
    sys.exit(code)


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
        sub = commands.add_parser(
            name,
            help=help_text,
            description=help_text,
            epilog=MORE.get(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(sub)
        sub.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: libraries, too")
        sub.add_argument("--log-format", choices=("text", "json"), default="text", help="form of the log on stderr")
        sub.set_defaults(command=command)
    # Not parsed here, as `run` is put in front of them; shown, as they are what most people come for.
    _run_arguments(parser.add_argument_group("options of run"), required=False)
    return parser


def _set_up_logging(verbose: int, as_json: bool) -> None:
    level = logging.DEBUG if verbose > 1 else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True)
    if as_json:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
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


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; expected seconds, a number above 0")
    return seconds


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
    parser.add_argument("--max-frames", metavar="N", type=_whole_number, help="stop after N frames (of each camera)")
    parser.add_argument("--duration", metavar="SECONDS", type=_seconds, help="stop after so long")
    parser.add_argument("--record", metavar="DIR", help="record what the tracker gets, for `edge-tracker replay`")
    parser.add_argument(
        "--record-limit", metavar="MIB", type=_whole_number, help="most the recording may take; the oldest goes first"
    )
    parser.add_argument("--check", action="store_true", help="check the configuration and what it names, then exit")


def _run(options: argparse.Namespace) -> int:
    from edge_tracker.app.config.loading import load_config

    config = load_config(options.config, options.set, options.source)
    if options.check:
        from edge_tracker.app.run.check import check

        check(config)
        print(f"{options.config}: valid")
        return OK

    from edge_tracker.app.run.allocation import give_back_large_blocks
    from edge_tracker.app.run.pipeline import Pipeline

    give_back_large_blocks()
    if options.record_limit is not None and options.record is None:
        raise ConfigError("--record-limit needs --record")
    pipeline = Pipeline(
        config,
        build=not options.no_build,
        record=Path(options.record) if options.record else None,
        record_limit=options.record_limit,
        reload=lambda: load_config(options.config, options.set, options.source),
        watched=Path(options.config),
    )
    _say_more(options)
    try:
        with pipeline:
            pipeline.run(options.max_frames, options.duration)
    finally:
        print(pipeline.summary)
    return INTERRUPTED if pipeline.summary.stopped_by is signal.SIGINT else OK


def _warmup_arguments(parser: Any) -> None:
    parser.add_argument(
        "--method", choices=("edge", "deepsort"), help="compile this tracker.method only; default: both"
    )


def _warmup(options: argparse.Namespace) -> int:
    from edge_tracker.tracking.warmup import warm_up

    start = time.perf_counter()
    for method in [options.method] if options.method else ("edge", "deepsort"):
        warm_up(method)
    print(f"the tracker is compiled and cached ({time.perf_counter() - start:.1f} s)")
    return OK


def _build(options: argparse.Namespace) -> int:
    from edge_tracker.app.build import build_engines
    from edge_tracker.app.config.loading import load_config

    for path in build_engines(load_config(options.config, options.set)):
        print(path)
    return OK


def _doctor_arguments(parser: Any) -> None:
    _config_arguments(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(options: argparse.Namespace) -> int:
    from edge_tracker.app.commands.doctor import examine, is_ok, to_json, to_text
    from edge_tracker.app.config.loading import load_config

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
    from tempfile import TemporaryDirectory

    from edge_tracker.app.evaluation import evaluation

    if (options.config is None) == (options.results is None):
        raise ConfigError("give one of --config and --results: what is to be scored")
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


def _replay_arguments(parser: Any) -> None:
    parser.add_argument("recording", metavar="PATH", help="the folder that `run --record` wrote to, or a file of it")
    parser.add_argument("--run", metavar="N", type=_whole_number, help="which of the folder's runs; default: the last")
    parser.add_argument(
        "--set",
        metavar="tracker.KEY=VALUE",
        action="append",
        default=[],
        help="set a key of tracker differently; may be given several times",
    )
    parser.add_argument("--mot", metavar="FILE", help="write MOTChallenge text")
    parser.add_argument("--jsonl", metavar="FILE", help="write JSON lines")
    parser.add_argument("--check", action="store_true", help="exit with 1 unless every track is as it was, bit for bit")
    parser.add_argument("--explain", metavar="ID", type=_whole_number, help="say why this track got its detections")
    parser.add_argument("--frames", metavar="A:B", type=_frame_range, help="explain these frames only; A: and :B, too")
    parser.add_argument("--json", action="store_true", help="explain in JSON lines, and print nothing else")


def _frame_range(text: str) -> tuple[int | None, int | None]:
    first, colon, last = text.partition(":")
    try:
        ends = (int(first) if first else None, int(last if colon else first) if last or not colon else None)
    except ValueError:
        ends = (None, None)
    if ends == (None, None) or (ends[0] is not None and ends[1] is not None and ends[0] > ends[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; expected frames such as 100:120, 100:, :120 or 100")
    return ends


def _replay(options: argparse.Namespace) -> int:
    from edge_tracker.app.commands.replay import replay

    if options.check and options.set:
        raise ConfigError("--check with --set: other settings give other tracks; leave one of the two out")
    for name in ("json", "frames"):
        if getattr(options, name) and options.explain is None:
            raise ConfigError(f"--{name} needs --explain")
    _say_more(options)
    return OK if replay(options) else NOT_THERE


def _tune_arguments(parser: Any) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="MOTChallenge sequences: SEQ/gt/gt.txt, SEQ/det/det.txt, ...")
    _config_arguments(parser)
    parser.add_argument(
        "--trials", metavar="N", type=_whole_number, default=50, help="settings to try in each study (default: 50)"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        default="tuning",
        help="recordings and trials; a second call goes on with them (default: tuning)",
    )
    parser.add_argument("--sequences", metavar="SEQ", nargs="+", default=[], help="these sequences only")
    parser.add_argument("--no-build", action="store_true", help="fail, instead of building a TensorRT engine first")


def _tune(options: argparse.Namespace) -> int:
    from pathlib import Path

    from edge_tracker.app.config.loading import load_config
    from edge_tracker.app.evaluation import evaluation, tuning

    evaluation.require_trackeval()
    tuning.require_optuna()
    sequences = evaluation.find_sequences(options.folder, options.sequences)
    config = load_config(options.config, options.set, source=str(sequences[0].folder))
    _say_more(options)
    print(tuning.report(tuning.tune(config, sequences, Path(options.output), options.trials, not options.no_build)))
    return OK


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf") or (share > 1 and share % 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; expected a share such as 0.5, or a whole number")
    return share


BATCH_EXAMPLES = """\
examples:
  edge-tracker batch --config cam.yaml --inputs 'archive/**/*.mp4' --output results
  edge-tracker batch --config cam.yaml --inputs monday tuesday/door.avi --output results --workers 4
  edge-tracker batch --config cam.yaml --inputs archive --output results --workers 4 --gpus 0.25
  edge-tracker batch --config cam.yaml --inputs /nas/archive --output /nas/results --address auto
  edge-tracker batch --config cam.yaml --inputs day.mp4 --output results --cut 600 --compare-uncut

The same call again goes on where the last one was stopped, and does nothing once all is done. docs/batch.md says more.
"""
MORE = {"batch": BATCH_EXAMPLES}


def _batch_arguments(parser: Any) -> None:
    _config_arguments(parser)
    parser.add_argument(
        "--inputs",
        metavar="PATH",
        nargs="+",
        action="extend",
        required=True,
        help="videos, folders, or patterns with *, ** and ? (in quotes); may be given several times",
    )
    parser.add_argument("--output", metavar="FOLDER", required=True, help="the results: a folder for each video")
    parser.add_argument("--workers", metavar="N", type=_whole_number, help="videos at a time; default: one a CPU core")
    parser.add_argument("--cpus", metavar="X", type=_share, help="CPUs for each worker; default: all, divided")
    parser.add_argument("--gpus", metavar="X", type=_share, help="GPUs for each, such as 0.25; default: all, divided")
    parser.add_argument("--address", metavar="ADDRESS", help="a Ray cluster, or auto; default: this machine alone")
    parser.add_argument(
        "--cut", metavar="SECONDS", type=_seconds, help="cut videos into segments that run side by side"
    )
    parser.add_argument("--overlap", metavar="SECONDS", type=_seconds, help="that two segments share; default: 10")
    parser.add_argument(
        "--compare-uncut", action="store_true", help="track cut videos whole, too, and say which identities differ"
    )


def _batch(options: argparse.Namespace) -> int:
    for name in ("overlap", "compare_uncut"):
        if getattr(options, name) and options.cut is None:
            raise ConfigError(f"--{name.replace('_', '-')} needs --cut")
    if options.cpus == 0:
        raise ConfigError("--cpus: 0 is not valid; a worker needs a share of a CPU, such as 0.5")
    from edge_tracker.app.commands.batch import batch

    _say_more(options)
    unfinished, stopped_by = batch(options)
    if stopped_by is signal.SIGINT:
        return INTERRUPTED
    return NOT_THERE if unfinished else OK


# What `edge-tracker NAME` is: a line of help, what it takes, what it does.
COMMANDS: dict[str, tuple[str, Callable[[Any], None], Callable[[argparse.Namespace], int]]] = {
    "run": ("track the objects of a source (the default command)", _run_arguments, _run),
    "build": ("build the TensorRT engines that a configuration needs", _config_arguments, _build),
    "doctor": ("say what this machine has, and what is wrong with it", _doctor_arguments, _doctor),
    "eval": ("score a configuration, or results, on sequences with ground truth", _eval_arguments, _eval),
    "tune": (
        "search the tracker's parameters on sequences with ground truth, and judge on others",
        _tune_arguments,
        _tune,
    ),
    "batch": ("track many videos at once, on this machine's cores or on a Ray cluster", _batch_arguments, _batch),
    "replay": ("track again through what a run recorded, and explain its tracks", _replay_arguments, _replay),
    "warmup": (
        "compile the tracker and fill Numba's cache, so that the next start is quick",
        _warmup_arguments,
        _warmup,
    ),
}
