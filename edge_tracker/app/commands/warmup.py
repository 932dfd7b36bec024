"""`edge-tracker warmup`: compile the tracker."""

from __future__ import annotations

import argparse
import time

from edge_tracker.app.commands import arguments
from edge_tracker.app.commands.exit_codes import OK

HELP = "compile the tracker and fill Numba's cache, so that the next start is fast"


def add_arguments(parser: arguments.Parser) -> None:
    """Add the options."""
    parser.add_argument(
        "--method", choices=("edge", "deepsort"), help="compile only this tracker.method; default: both"
    )


def run(options: argparse.Namespace) -> int:
    """Compile the functions that are not in the cache yet."""
    from edge_tracker.tracking.warmup import warm_up

    start = time.perf_counter()
    for method in [options.method] if options.method else ("edge", "deepsort"):
        warm_up(method)
    print(f"the tracker is compiled and cached ({time.perf_counter() - start:.1f} s)")
    return OK
