"""The file format of recordings: a line that names it, then records with a checksum each.

A record is 4 bytes `REC\\n`, the length and the CRC-32 of the rest (two little-endian uint32), a line of JSON, and the
arrays that the line lists, raw and little-endian, one after the other. Files are only appended to, so a power cut can
damage only the end; everything before it stays readable. docs/replay.md describes the content of the records.
"""

from __future__ import annotations

import json
import logging
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edge_tracker.errors import SourceError

log = logging.getLogger(__name__)

FORMAT, VERSION = "edge-tracker-recording", 1
FIRST_LINE = f"{FORMAT} {VERSION}\n".encode()

MARK = b"REC\n"
_FRAMING = struct.Struct("<4sII")
MOST_BYTES = 2**32 - 1

# Run and part of the run, so that names sort in the order of recording.
_NAME = "{run:06d}-{part:06d}.rec"
_NAMED = re.compile(r"(\d{6,})-(\d{6,})\.rec")

Arrays = dict[str, np.ndarray]


def segment_name(run: int, part: int) -> str:
    """The file name of a part of a run, both from 1."""
    return _NAME.format(run=run, part=part)


def segments_of(folder: Path) -> dict[tuple[int, int], Path]:
    """The recorded files of a folder by run and part, in the order in which they were written."""
    found = {}
    for path in folder.iterdir():
        match = _NAMED.fullmatch(path.name)
        if match:
            found[int(match[1]), int(match[2])] = path
    return dict(sorted(found.items()))


def packed(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A record as bytes.

    Args:
        content: the line of JSON.
        arrays: arrays of numbers, booleans or text.
    """
    listed, blobs = [], []
    for name, array in arrays.items():
        array = np.ascontiguousarray(array).reshape(array.shape)  # keeps arrays without dimensions as they are
        if array.dtype.kind not in "biufU":
            raise TypeError(f"{name}: arrays of {array.dtype} are not recorded")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        listed.append((name, array.dtype.str, array.shape))
        blobs.append(array.tobytes())
    line = json.dumps({**content, "arrays": listed}, separators=(",", ":")).encode() + b"\n"
    payload = b"".join((line, *blobs))
    if len(payload) > MOST_BYTES:
        raise ValueError(f"a record of {len(payload)} bytes is too long")
    return _FRAMING.pack(MARK, len(payload), zlib.crc32(payload)) + payload


def _unpacked(payload: bytes) -> tuple[dict[str, Any], Arrays]:
    """Undo `packed`.

    Raises:
        ValueError, TypeError, KeyError: the bytes are not such a record.
    """
    line, _, rest = payload.partition(b"\n")
    content = json.loads(line)
    arrays, at = {}, 0
    for name, kind, shape in content.pop("arrays"):
        dtype = np.dtype(str(kind))
        count = 1
        for length in shape:
            count *= int(length)
        if dtype.kind not in "biufU" or count < 0:
            raise ValueError(f"{name} is of type {kind}")
        size = count * dtype.itemsize
        if at + size > len(rest):
            raise ValueError(f"{name} is cut off")
        # A copy, since the tracker's compiled code needs writable arrays in native byte order.
        array = np.frombuffer(rest, dtype, count, at) if size else np.empty(count, dtype)
        arrays[name] = array.reshape(shape).astype(dtype.newbyteorder("="))
        at += size
    return content, arrays


def read_records(path: Path) -> Iterator[tuple[dict[str, Any], Arrays]]:
    """The records of a file, one by one. An incomplete end is skipped with a warning.

    Raises:
        SourceError: the file cannot be read, is no recording or of another version, or is damaged in the middle.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if not _begins_well(path, file):
                return
            number = 0
            while True:
                place = file.tell()
                payload = _next_payload(file, size)
                if payload is None:
                    if place < size:
                        _judge_end(path, file, place, number)
                    return
                number += 1
                try:
                    yield _unpacked(payload)
                except (ValueError, TypeError, KeyError) as error:  # the checksum is right, so it was written like this
                    raise SourceError(f"{path}: record {number} is not one of a recording ({error})") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from None


def _begins_well(path: Path, file: BinaryIO) -> bool:
    """True if records may follow: the first line is right. An empty file is one that was cut off at once.

    Raises:
        SourceError: it is no recording, or one of another version.
    """
    first = file.read(len(FIRST_LINE))
    if first == FIRST_LINE:
        return True
    if FIRST_LINE.startswith(first) or not first.strip(b"\0"):
        log.warning("%s: the recording was cut off before anything was in it", path)
        return False
    name, _, version = (first + file.read(32)).partition(b"\n")[0].decode("ascii", "replace").partition(" ")
    if name == FORMAT and version.isdigit():
        raise SourceError(
            f"{path}: a recording of format {version}, but this version reads {VERSION}; "
            "replay it with the version of edge-tracker that wrote it"
        )
    raise SourceError(f"{path}: not a recording; give what `edge-tracker run --record` wrote")


def _next_payload(file: BinaryIO, size: int) -> bytes | None:
    """The record that begins here, or None if it is incomplete."""
    framing = file.read(_FRAMING.size)
    if len(framing) < _FRAMING.size:
        return None
    mark, length, checksum = _FRAMING.unpack(framing)
    if mark != MARK or length > size - file.tell():
        return None
    payload = file.read(length)
    return payload if len(payload) == length and zlib.crc32(payload) == checksum else None


def _judge_end(path: Path, file: BinaryIO, place: int, number: int) -> None:
    """Warn that the end of a file is incomplete.

    Raises:
        SourceError: a complete record follows, so the damage is in the middle.
    """
    file.seek(place)
    rest = file.read()
    at = rest.find(MARK, 1)
    while at >= 0:
        file.seek(place + at)
        if _next_payload(file, place + len(rest)) is not None:
            raise SourceError(
                f"{path}: record {number + 1}, at byte {place}, is damaged, but complete ones follow; copy it again,"
                " or replay the other files of the folder one by one"
            )
        at = rest.find(MARK, at + 1)
    log.warning("%s: the last record is incomplete (%d bytes) and is skipped", path, len(rest))
