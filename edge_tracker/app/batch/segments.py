"""A long video in overlapping segments: cutting it, joining identities, and comparing with the whole video.

Two neighbouring segments both track the frames of their overlap. A track of one and a track of the other are one
identity if they are matched there: of all one-to-one correspondences, the one with the largest summed IoU is taken. Up
to the end of the overlap the earlier segment's tracks are used, since its tracker has seen more; after it, the later
one's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_tracker.app.batch.results import CutDifference
from edge_tracker.app.batch.video_settings import Cut
from edge_tracker.tracking.assignment import iou, match_pairs

LEAST_IOU = 0.5  # of two boxes of one object, as in MOTChallenge


@dataclass(frozen=True)
class Segment:
    """A segment of a video: the number of its first frame, and of its frames; None for all to the end."""

    first: int
    count: int | None


@dataclass(frozen=True)
class Part:
    """A tracked segment, and its results."""

    segment: Segment
    mot: Path
    jsonl: Path | None


class ResultRows(NamedTuple):
    """The boxes of a result, in order of frames: (R,) frames and identities, (R, 4) left, top, width, height."""

    frames: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray

    def since(self, frame: int) -> ResultRows:
        """The rows from a frame on."""
        k = int(np.searchsorted(self.frames, frame))
        return ResultRows(self.frames[k:], self.ids[k:], self.boxes[k:])

    def before(self, frame: int) -> ResultRows:
        """The rows before a frame."""
        k = int(np.searchsorted(self.frames, frame))
        return ResultRows(self.frames[:k], self.ids[:k], self.boxes[:k])


def cut_into(frames: int | None, fps: float | None, cut: Cut, every: int) -> list[Segment]:
    """The segments of a video; a single one if it is no longer than a segment, or its length is not known.

    Args:
        frames, fps: as the video declares. The last segment goes to the end, wherever that is.
        cut: the lengths of segments and overlaps.
        every: `detector.every`; segments begin at frames on which the detector also runs in the whole video.
    """
    if frames is None or fps is None:
        return [Segment(1, None)]
    step = max(every, round(cut.seconds * fps) // every * every)
    overlap = min(step, max(1, round(cut.overlap * fps)))
    segments = [Segment(first, step + overlap) for first in range(1, frames + 1, step)]
    # A remainder that is no longer than the overlap is in the previous segment already.
    while len(segments) > 1 and segments[-1].first + overlap > frames:
        segments.pop()
    segments[-1] = Segment(segments[-1].first, None)
    return segments


def read_rows(path: Path) -> ResultRows:
    """The boxes of a MOT file that this program wrote."""
    if path.stat().st_size == 0:
        return ResultRows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)))
    values = np.loadtxt(path, delimiter=",", usecols=range(6), ndmin=2)
    return ResultRows(values[:, 0].astype(np.int64), values[:, 1].astype(np.int64), np.ascontiguousarray(values[:, 2:]))


def _covered(one: ResultRows, other: ResultRows) -> Iterator[tuple[int, int, float]]:
    """The pairs of boxes that overlap, frame by frame: the rows of both, and their IoU."""
    begins = np.searchsorted(other.frames, one.frames, "left").tolist()
    ends = np.searchsorted(other.frames, one.frames, "right").tolist()
    for k, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        for n in range(begin, end):
            overlap = iou(one.boxes[k], other.boxes[n])
            if overlap >= LEAST_IOU:
                yield k, n, overlap


def correspondence(one: ResultRows, other: ResultRows) -> dict[int, int]:
    """The identities of `other` that correspond to those of `one`, over the frames of both.

    The correspondence is one-to-one, with the largest sum of IoU over the frames; pairs of boxes below `LEAST_IOU` do
    not count.
    """
    overlaps: dict[tuple[int, int], float] = {}
    for k, n, overlap in _covered(one, other):
        pair = int(one.ids[k]), int(other.ids[n])
        overlaps[pair] = overlaps.get(pair, 0.0) + overlap
    if not overlaps:
        return {}
    pairs = sorted(overlaps)
    rows, starts = np.unique([id for id, _ in pairs], return_index=True)
    columns, column_of = np.unique([theirs for _, theirs in pairs], return_inverse=True)
    matched = match_pairs(
        np.append(starts, len(pairs)).astype(np.int64),
        column_of.astype(np.int64),
        np.array([-overlaps[pair] for pair in pairs]),
        len(columns),
        0.0,
    )
    return {int(row): int(columns[column]) for row, column in zip(rows, matched, strict=True) if column >= 0}


def join(parts: Sequence[Part], outputs: Mapping[str, Path]) -> int:
    """Write the parts' results as those of one video, and return the number of identities.

    The identities of the first part keep their numbers.

    Args:
        parts: in order; each but the first begins before the one before it ends.
        outputs: the files to write, by the output's key: `mot`, `jsonl` or both. The events of objects are left out:
            at its ends a segment sees objects appear and disappear that in truth do not.

    Raises:
        OSError: a file cannot be read or written.
    """
    for path in outputs.values():
        path.write_bytes(b"")
    identities: set[int] = set()
    names: dict[int, int] = {}  # from the part's identities to those of the joined result
    rows, begin, highest = read_rows(parts[0].mot), 1, 0
    for k, part in enumerate(parts):
        if k:
            before, rows = rows, read_rows(part.mot)
            same = correspondence(rows.before(begin), before.since(part.segment.first))
            names = {id: names[theirs] for id, theirs in same.items()}
        written = rows.since(begin).ids
        _, first_seen = np.unique(written, return_index=True)
        for id in written[np.sort(first_seen)].tolist():
            if id not in names:
                names[id] = highest + 1 if k else id
            highest = max(highest, names[id])
            identities.add(names[id])
        if "mot" in outputs:
            _append(outputs["mot"], _renumbered_mot(part.mot, begin, names))
        if "jsonl" in outputs and part.jsonl is not None:
            _append(outputs["jsonl"], _renumbered_jsonl(part.jsonl, begin, names))
        if part.segment.count is not None:
            begin = part.segment.first + part.segment.count
    return len(identities)


def _append(path: Path, lines: Iterator[str]) -> None:
    with path.open("a", encoding="ascii") as file:
        file.writelines(lines)


def _renumbered_mot(path: Path, begin: int, names: Mapping[int, int]) -> Iterator[str]:
    with path.open(encoding="ascii") as file:
        for line in file:
            frame, id, rest = line.split(",", 2)
            if int(frame) >= begin:
                yield f"{frame},{names[int(id)]},{rest}"


def _renumbered_jsonl(path: Path, begin: int, names: Mapping[int, int]) -> Iterator[str]:
    with path.open(encoding="ascii") as file:
        for line in file:
            record = json.loads(line)
            if record["frame"] >= begin:
                record.pop("events", None)
                for track in record["tracks"]:
                    track["id"] = names[track["id"]]
                yield json.dumps(record, separators=(",", ":")) + "\n"


def compare(uncut: Path, cut: Path) -> CutDifference:
    """The changes by cutting, from the MOT files of a video tracked whole and cut.

    The identities of the two correspond as in `correspondence`, over all frames. IDF1 is that of Ristani et al.
    (Performance measures and a data set for multi-target, multi-camera tracking, 2016), with the whole video as the
    ground truth.
    """
    one, other = read_rows(uncut), read_rows(cut)
    theirs_of = correspondence(one, other)
    agreeing = dict.fromkeys(theirs_of, 0)
    nearest: dict[int, tuple[float, int]] = {}  # to each box of `one`: IoU, and the identity of `other`
    for k, n, overlap in _covered(one, other):
        id, theirs = int(one.ids[k]), int(other.ids[n])
        agreeing[id] = agreeing.get(id, 0) + (theirs_of.get(id) == theirs)
        nearest[k] = max(nearest.get(k, (0.0, 0)), (overlap, theirs))
    switches, last = 0, dict[int, int]()
    for k, (_, theirs) in nearest.items():  # in order of frames
        id = int(one.ids[k])
        switches += last.get(id, theirs) != theirs
        last[id] = theirs
    boxes, other_boxes = Counter(one.ids.tolist()), Counter(other.ids.tolist())
    whole = sum(agreeing[id] == boxes[id] == other_boxes[theirs] for id, theirs in theirs_of.items())
    total = len(one.ids) + len(other.ids)
    idf1 = 200 * sum(agreeing.values()) / total if total else 100.0
    return CutDifference(uncut=len(boxes), cut=len(other_boxes), whole=whole, switches=switches, idf1=round(idf1, 2))
