"""`edge-tracker doctor`: the state of this machine, its problems and their fixes."""

from __future__ import annotations

import argparse

from edge_tracker.app.commands import arguments
from edge_tracker.app.commands.exit_codes import NOT_THERE, OK
from edge_tracker.errors import ConfigError

HELP = "examine this machine, and show problems with their fixes"


def add_arguments(parser: arguments.Parser) -> None:
    """Add the options."""
    arguments.config(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the findings; NOT_THERE if the given configuration cannot run.

    Raises:
        ConfigError: the configuration is not valid.
    """
    from edge_tracker.app.config.loading import load_config
    from edge_tracker.app.doctor.examination import examine
    from edge_tracker.app.doctor.finding import is_ok, to_json, to_text

    if options.set and not options.config:
        raise ConfigError("--set needs --config")
    findings = examine(load_config(options.config, options.set) if options.config else None)
    print(to_json(findings) if options.json else to_text(findings))
    return OK if is_ok(findings) else NOT_THERE
