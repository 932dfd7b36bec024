"""`edge-tracker warmup`: compile the tracker."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time

from edge_tracker.app.commands import arguments
from edge_tracker.app.commands.exit_codes import OK

HELP = "compile the tracker into Numba's cache, so that the next start is quick"
METHODS = ("edge", "deepsort")


def add_arguments(parser: arguments.Parser) -> None:
    """Add the options."""
    parser.add_argument("--method", choices=METHODS, help="compile this method only; default: both, at once")


def run(options: argparse.Namespace) -> int:
    """Compile what is not in the cache yet."""
    if options.method is None:
        command = [sys.executable, "-m", "edge_tracker", "warmup", "--method"]
        children = [subprocess.Popen([*command, method]) for method in METHODS]
        return max(child.wait() for child in children)
    from edge_tracker.tracking.warmup import warm_up

    if not options.verbose:
        logging.getLogger("edge_tracker.tracking.jit").setLevel(logging.ERROR)  # what it would announce is said here
    print(f"compiling {options.method}, unless it is cached", flush=True)
    start = time.perf_counter()
    warm_up(options.method)
    print(f"{options.method} is compiled and cached ({time.perf_counter() - start:.1f} s)", flush=True)
    return OK
