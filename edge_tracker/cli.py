"""The `edge-tracker` command: parsing, and dispatch to the commands in `edge_tracker.app.commands`.

Errors that a user can fix are one line on stderr and exit code 2; a traceback is a bug. Heavy modules are imported by
the command that needs them, so that help and errors appear immediately.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import NoReturn

from edge_tracker.app.commands.exit_codes import BAD_INPUT, INTERRUPTED, OK
from edge_tracker.errors import EdgeTrackerError
from edge_tracker.version import __version__

# Each has `HELP`, `add_arguments`, `run`, and optionally `EXAMPLES`. Imported when called, or for the help.
COMMANDS = {
    name: f"edge_tracker.app.commands.{name}"
    for name in ("run", "build", "doctor", "eval", "tune", "batch", "replay", "warmup")
}

DESCRIPTION = "Track objects in video: detect them, tell them apart, and give each a lasting identity."
EXAMPLES = """\
examples:
  edge-tracker --config cam.yaml                        run until the source ends, or Ctrl-C
  edge-tracker --config cam.yaml --check                check whether it would run
  edge-tracker --config cam.yaml --source street.mp4    run it on another source
  edge-tracker --config cam.yaml --source 0             run it on the first camera
  edge-tracker --config cam.yaml --set tracker.max_age=60 --set detector.classes=[person,car]
  edge-tracker build --config cam.yaml                  build its TensorRT engines now instead of at the first run
  edge-tracker doctor --config cam.yaml                 show what is missing on this machine
  edge-tracker eval MOT15/train --config cam.yaml       score it on sequences with ground truth
  edge-tracker batch --config cam.yaml --inputs 'archive/**/*.mp4' --output results
                                                        run it on many videos in parallel, with Ray
  edge-tracker replay recording --check                 repeat the tracking of `run --record recording`
  edge-tracker tune MOT15/train --config cam.yaml       search for better parameters
  edge-tracker warmup                                   compile the tracker now instead of at the first run

exit codes:
  0 success (also when stopped by SIGTERM)   2 invalid input   130 stopped by Ctrl-C
  1 doctor: the configuration cannot run; replay --check: not reproduced; batch: a video failed, or was not
    processed before SIGTERM
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given:
        given = ["--help"]
    # `run` can be omitted: `edge-tracker --config cam.yaml`. Any other first word should be a command; if it is not,
    # argparse lists them.
    if given[0].startswith("-") and given[0] not in ("-h", "--help", "--version"):
        given.insert(0, "run")
    try:
        options = _parser([given[0]] if given[0] in COMMANDS else COMMANDS).parse_args(given)
        _set_up_logging(options.verbose, options.log_format == "json")
        code = options.run_command(options)
        sys.stdout.flush()
        return int(code)
    except EdgeTrackerError as error:
        for line in str(error).split("\n"):
            print(f"edge-tracker: error: {line}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("edge-tracker: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads the output any more; print nothing else, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def entry() -> NoReturn:
    """Run the command line and end the process."""
    code = main()
    live = sys.modules.get("edge_tracker.app.sources.live")  # only imported by commands that read a source
    if live is not None and live.some_hang():
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)  # everything is closed except a camera that does not respond
    sys.exit(code)


class _Parser(argparse.ArgumentParser):
    """A parser that prints errors in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"edge-tracker: error: {message}; see {self.prog} --help\n")


def _parser(names: Iterable[str]) -> argparse.ArgumentParser:
    """The parser, with the arguments of these commands."""
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
    for name in names:
        command = import_module(COMMANDS[name])
        sub = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            epilog=getattr(command, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.add_argument("-v", "--verbose", action="count", default=0, help="log more; given twice: libraries as well")
        sub.add_argument("--log-format", choices=("text", "json"), default="text", help="format of the log on stderr")
        sub.set_defaults(run_command=command.run)
    if "run" in names:
        # Never parsed here, since `run` is inserted before them; only shown, since they are what most users need.
        run = import_module(COMMANDS["run"])
        run.add_arguments(parser.add_argument_group("options of run"), required=False)
    return parser


def _set_up_logging(verbose: int, as_json: bool) -> None:
    level = logging.DEBUG if verbose > 1 else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True)
    if as_json:
        from edge_tracker.app.commands.jsonlog import JsonFormatter

        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
    # Until everything is open, only problems are logged, so that an error does not drown in other lines.
    logging.getLogger("edge_tracker").setLevel(logging.DEBUG if verbose else logging.WARNING)
    # Building an engine takes minutes and should not look like a hang.
    logging.getLogger("edge_tracker.inference.engines").setLevel(logging.DEBUG if verbose else logging.INFO)
