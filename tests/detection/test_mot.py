"""Recorded detections."""

from __future__ import annotations

import numpy as np
import pytest

from edge_tracker.detection import MotDetections
from edge_tracker.errors import SourceError


def write(tmp_path, text: str):
    path = tmp_path / "det.txt"
    path.write_text(text)
    return path


def test_rows_in_any_order(tmp_path):
    path = write(tmp_path, "3,-1,1,2,3,4,0.9,-1,-1,-1\n1,-1,5,6,7,8,0.5\n\n3, -1, 10.5, 20, 30, 40, 0.2, -1\n")
    recorded = MotDetections(path)
    assert recorded.frames == 3
    third = recorded.detect(3)
    np.testing.assert_allclose(third.ltwh, [[1, 2, 3, 4], [10.5, 20, 30, 40]])
    np.testing.assert_allclose(third.confidence, [0.9, 0.2])
    assert [third.names[number] for number in third.class_id] == ["person", "person"]
    assert (third.ltwh.dtype, third.confidence.dtype, third.class_id.dtype) == (np.float32, np.float32, np.int64)
    for frame in (0, 2, 4, 10**9):
        assert len(recorded.detect(frame)) == 0


def test_confidence(tmp_path):
    path = write(tmp_path, "1,-1,1,2,3,4,0.5\n1,-1,5,6,7,8,-2\n2,-1,5,6,7,8,0.49\n")
    assert len(MotDetections(path).detect(1)) == 2
    recorded = MotDetections(path, confidence=0.5)
    assert len(recorded.detect(1)) == 1
    assert len(recorded.detect(2)) == 0
    assert recorded.frames == 2


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_an_empty_file_has_no_frames(tmp_path, text):
    recorded = MotDetections(write(tmp_path, text))
    assert recorded.frames == 0
    assert len(recorded.detect(1)) == 0


@pytest.mark.parametrize("text", ["1,-1,1,2,3,4,0.5\r\n", "\ufeff1,-1,1,2,3,4,0.5", "1.0,-1,1,2,3,4,0.5,,,\n"])
def test_what_other_programs_write(tmp_path, text):
    assert len(MotDetections(write(tmp_path, text)).detect(1)) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,-1,1,2,3,4", "6 columns instead of"),
        ("1 -1 1 2 3 4 0.5", "1 columns instead of"),
        ("1,-1,1,2,x,4,0.5", "not a number"),
        ("1,-1,1,2,,4,0.5", "not a number"),
        ("1,-1,1,2,nan,4,0.5", "not finite"),
        ("1,-1,1,2,3,4,inf", "not finite"),
        ("0,-1,1,2,3,4,0.5", "frame 0 is not a whole number from 1 up"),
        ("1.5,-1,1,2,3,4,0.5", "frame 1.5 is not"),
        ("nan,-1,1,2,3,4,0.5", "frame nan is not"),
        ("inf,-1,1,2,3,4,0.5", "frame inf is not"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path, row, message):
    path = write(tmp_path, f"1,-1,1,2,3,4,0.5\n\n{row}\n")
    with pytest.raises(SourceError, match=message) as caught:
        MotDetections(path)
    assert f"{path}, line 3: " in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(SourceError, match=r"none.txt: cannot read detections: No such file"):
        MotDetections(tmp_path / "none.txt")
    with pytest.raises(SourceError, match="cannot read detections: Is a directory"):
        MotDetections(tmp_path)
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(SourceError, match="it is not text"):
        MotDetections(path)


def test_real_sequences(shared_data):
    for path in sorted(shared_data.glob("mot1[57]/*/det/det.txt")):
        rows = np.loadtxt(path, delimiter=",")
        recorded = MotDetections(path)
        assert recorded.frames == rows[:, 0].max()
        assert sum(len(recorded.detect(frame)) for frame in range(1, recorded.frames + 1)) == len(rows)
        np.testing.assert_allclose(recorded.detect(7).ltwh, rows[rows[:, 0] == 7, 2:6], rtol=1e-6)
