"""The commands of `edge-tracker`, one file each: the arguments of the command, and what it calls.

Each has `HELP`, `add_arguments(parser)`, `run(options)`, which returns the exit code, and optionally `EXAMPLES`. Heavy
modules are imported by `run`, so that help and errors appear immediately.
"""
