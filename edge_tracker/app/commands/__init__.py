"""The commands of `edge-tracker`, one file each: its arguments, and what it calls.

Each has `HELP`, `add_arguments(parser)`, `run(options)`, which returns the exit code, and perhaps `EXAMPLES`. What is
heavy is imported by `run`, so that help and complaints come at once.
"""
