"""Arguments of several commands, and types of arguments."""

from __future__ import annotations

import argparse
import logging
from typing import Any

Parser = Any  # an argparse.ArgumentParser, or a group of its arguments


def config(parser: Parser, required: bool = True) -> None:
    """`--config` and `--set`."""
    parser.add_argument("-c", "--config", metavar="FILE", required=required, help="the configuration, a YAML file")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set any key, such as tracker.max_age=60; can be given several times",
    )


def no_build(parser: Parser) -> None:
    """`--no-build`."""
    parser.add_argument("--no-build", action="store_true", help="fail instead of building a TensorRT engine")


def sequences(parser: Parser) -> None:
    """The folder of MOTChallenge sequences."""
    parser.add_argument("folder", metavar="FOLDER", help="MOTChallenge sequences: SEQ/gt/gt.txt, SEQ/det/det.txt, ...")


def sequence_names(parser: Parser) -> None:
    """`--sequences`."""
    parser.add_argument("--sequences", metavar="SEQ", nargs="+", default=[], help="only these sequences")


def whole_number(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; expected a whole number of at least 1")
    return number


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid; expected seconds, a number above 0")
    return number


def say_more(options: argparse.Namespace) -> None:
    """Log progress from now on: everything is open, and no error can drown in it any more."""
    if not options.verbose:
        logging.getLogger("edge_tracker").setLevel(logging.INFO)
