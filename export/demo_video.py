"""The demo video: `python -m export.demo_video --output results/vtest.avi`.

It is OpenCV's sample `vtest.avi` (768x576, 795 frames, Apache-2.0), real people in a street. It is fetched from
OpenCV's repository or, if that is unreachable, extracted from Debian's package `opencv-doc`, checked, and kept in the
user's cache.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from pathlib import Path

from edge_tracker.errors import EdgeTrackerError
from edge_tracker.files import atomic_path
from export.fetch import DebianPackage, Source, Url, fetch

FILE = "vtest.avi"
SHA256 = "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"
SOURCES: tuple[Source, ...] = (
    Url("https://raw.githubusercontent.com/opencv/opencv/4.10.0/samples/data/vtest.avi"),
    DebianPackage("opencv-doc", "usr/share/doc/opencv-doc/examples/data/vtest.avi"),
)
OWN = "Use a video of your own instead: edge-tracker --config configs/demo.yaml --source VIDEO"


def demo_video(otherwise: str = OWN) -> Path:
    """The video in the cache, fetched the first time.

    Args:
        otherwise: advice for the user if no source has it, for the error.

    Raises:
        FetchError: no source has it; names those that were tried.
    """
    return fetch(FILE, SHA256, SOURCES, otherwise)


def main(arguments: list[str] | None = None) -> int:
    """Fetch the video, and copy it to `--output`."""
    parser = argparse.ArgumentParser(
        prog="python -m export.demo_video",
        description="Fetch the demo video once, check it, and print its path.",
        epilog="example: python -m export.demo_video --output results/vtest.avi",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="put a copy here (default: only in the cache)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        path = demo_video()
        if options.output is not None:
            with atomic_path(options.output) as partial:
                shutil.copyfile(path, partial)
            path = options.output
    except (EdgeTrackerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
