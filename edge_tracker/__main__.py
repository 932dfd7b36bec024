"""`python -m edge_tracker` is the `edge-tracker` command."""

from edge_tracker.cli import entry

if __name__ == "__main__":
    entry()
