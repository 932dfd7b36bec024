"""The exit codes of `edge-tracker`."""

OK, NOT_THERE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
