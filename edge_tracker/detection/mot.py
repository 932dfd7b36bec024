"""Recorded detections from a MOTChallenge `det.txt`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from edge_tracker.detection.result import Detections
from edge_tracker.errors import SourceError

NAMES = ("person",)


class MotDetections:
    """The detections of a `det.txt`, frame by frame. They have one class, "person".

    A row is `frame, id, left, top, width, height, confidence` and possibly more columns, with frames counted from 1;
    rows may be in any order.

    Args:
        path: the file.
        confidence: rows below it are left out; None keeps all (in some sequences the confidences are not 0..1).

    Attributes:
        names: the classes, ("person",).
        frames: the number of the last frame that has a row; 0 for an empty file.

    Raises:
        SourceError: the file cannot be read, or a row has another form; with the file and the line.
    """

    def __init__(self, path: str | Path, confidence: float | None = None) -> None:
        self.names = NAMES
        rows: dict[int, list[list[float]]] = {}
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SourceError(f"{path}: cannot read detections: {reason}") from error
        self.frames = 0
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            frame, row = _row(line, f"{path}, line {number}")
            self.frames = max(self.frames, frame)
            if confidence is None or row[4] >= confidence:
                rows.setdefault(frame, []).append(row)
        self._frames = {frame: _detections(found) for frame, found in rows.items()}

    def detect(self, frame: int) -> Detections:
        """The detections of a frame, counted from 1, in the file's order; none for a frame without rows."""
        return self._frames.get(frame) or Detections.none(NAMES)


def _row(line: str, where: str) -> tuple[int, list[float]]:
    """Frame number, and left, top, width, height, confidence."""
    cells = line.split(",")
    if len(cells) < 7:
        raise SourceError(f"{where}: {len(cells)} columns instead of frame, id, left, top, width, height, confidence")
    try:
        frame, *row = (float(cells[column]) for column in (0, 2, 3, 4, 5, 6))
    except ValueError as error:
        raise SourceError(f"{where}: not a number ({error})") from error
    if not all(map(math.isfinite, row)):
        raise SourceError(f"{where}: a number is not finite")
    if frame < 1 or frame % 1:
        raise SourceError(f"{where}: frame {cells[0].strip()} is not a whole number from 1 up")
    return int(frame), row


def _detections(rows: list[list[float]]) -> Detections:
    values = np.array(rows)
    return Detections(
        values[:, :4].astype(np.float32), values[:, 4].astype(np.float32), np.zeros(len(values), np.int64), NAMES
    )
