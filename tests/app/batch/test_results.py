"""The folder of results: what appears in it is whole, and one batch at a time works there."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path, PurePath

import pytest

from edge_tracker.app.batch.inputs import Video
from edge_tracker.app.batch.results import Failure, Record, Results, stamp_of
from edge_tracker.errors import OutputError
from tests.waiting import COMPILING_S


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "archive" / "a.mp4"
    path.parent.mkdir()
    path.write_bytes(b"a video")
    return Video(path, PurePath("door/a.mp4"))


def finished(results: Results, video: Video, text: str = "1,1,0\n", **more: object) -> tuple[Path, Record]:
    """A folder with a result in it, and its record."""
    work = results.new_work()
    (work / "tracks.txt").write_text(text)
    given = {"frames": 50, "tracks": 3, "seconds": 2.0, "warnings": [], "outputs": {"tracks.txt": len(text)}}
    record = Record(video=video.name, sha256="ab" * 32, stamp=stamp_of(video.path), key="k", **{**given, **more})
    return work, record


def rows(results: Results) -> list[dict[str, str]]:
    with results.summary.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_result_appears_whole_with_its_record(results, video):
    work, record = finished(results, video)
    place = results.folder / "door" / "a.mp4"
    assert not place.exists()
    results.publish(video, work, record)
    assert sorted(os.listdir(place)) == ["batch.json", "tracks.txt"]
    assert results.record_of(video) == record
    assert not work.exists()


def test_a_result_takes_the_place_of_an_earlier_one(results, video):
    results.publish(video, *finished(results, video))
    work, record = finished(results, video, "2,2,0\n2,3,0\n")
    (work / "more.txt").write_text("")
    results.publish(video, work, record)
    place = results.place_of(video)
    assert sorted(os.listdir(place)) == ["batch.json", "more.txt", "tracks.txt"]
    assert (place / "tracks.txt").read_text() == "2,2,0\n2,3,0\n"


def test_what_a_batch_has_not_made_is_left(results, video):
    place = results.place_of(video)
    place.mkdir(parents=True)
    (place / "diary.txt").write_text("dear")
    with pytest.raises(OutputError, match="was not created by a batch"):
        results.publish(video, *finished(results, video))
    assert (place / "diary.txt").read_text() == "dear"


@pytest.mark.parametrize("harm", ["shorter", "gone", "torn", "old", "none"])
def test_results_that_are_not_whole_any_more_do_not_count(results, video, harm):
    results.publish(video, *finished(results, video))
    place = results.place_of(video)
    record = place / "batch.json"
    if harm == "shorter":
        (place / "tracks.txt").write_text("1,")
    elif harm == "gone":
        (place / "tracks.txt").unlink()
    elif harm == "torn":
        record.write_text(record.read_text()[:80])
    elif harm == "old":
        record.write_text('{"of": "another version"}')
    else:
        record.unlink()
    assert results.record_of(video) is None


def test_one_batch_at_a_time(results):
    with pytest.raises(OutputError, match=rf"another batch \(process {os.getpid()} of .*\) is using it"):
        Results(results.folder)


def test_a_lock_ends_with_its_process_and_unfinished_work_is_cleared_away(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from edge_tracker.app.batch.results import Results\n"
        "r = Results(Path(sys.argv[1])); (r.new_work() / 'half.txt').write_text('h'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "results")], timeout=COMPILING_S)
    assert done.returncode == -9
    work = tmp_path / "results" / ".batch" / "work"
    assert list(work.rglob("half.txt"))
    with Results(tmp_path / "results"):
        assert not list(work.iterdir())


def test_the_summary_goes_on(results, video, monkeypatch):
    monkeypatch.setattr("edge_tracker.app.batch.results.SUMMARY_EVERY_S", 3600.0)
    results.note(video, Failure('cannot be opened, "really"\nno'))
    results.write_summary(now=True)
    (row,) = rows(results)
    assert (row["status"], row["reason"], row["results"]) == ("failed", 'cannot be opened, "really"\nno', "door/a.mp4")
    results.note(video, finished(results, video, warnings=["short", "slow"])[1])
    results.write_summary()  # too early
    assert rows(results) == [row]
    results.write_summary(now=True)
    (row,) = rows(results)
    assert row == {
        "video": str(video.path), "hash": "ab" * 32, "frames": "50", "tracks": "3", "seconds": "2.00", "fps": "25.00",
        "status": "done", "reason": "", "warnings": "short; slow", "results": "door/a.mp4",
    }  # fmt: skip
    before = results.summary.stat().st_ino
    results.note(video, finished(results, video, warnings=["short", "slow"])[1])
    results.write_summary(now=True)
    assert results.summary.stat().st_ino == before, "nothing has changed"


def test_the_summary_keeps_the_rows_of_other_videos(tmp_path, video):
    other = Video(video.path, PurePath("b.mp4"))
    for each in (video, other):
        with Results(tmp_path / "results") as results:
            results.note(each, Failure("no"))
            results.write_summary(now=True)
    assert [row["results"] for row in rows(results)] == ["b.mp4", "door/a.mp4"]
    results.summary.write_text("something,else\n1,2\n")
    with Results(tmp_path / "results") as results:
        results.note(video, Failure("no"))
        results.write_summary(now=True)
    assert [row["results"] for row in rows(results)] == ["door/a.mp4"]


def test_a_name_that_is_not_text(results, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    path.write_bytes(b"x")
    video = Video(path, PurePath(path.name))
    results.publish(video, *finished(results, video))
    assert results.record_of(video) is not None
    results.note(video, results.record_of(video))
    results.write_summary(now=True)
    assert rows(results)[0]["results"] == r"caf\udce9.mp4"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission denied"):
        Results(tmp_path / "results")


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"--output: .*: cannot be written"):
        Results(tmp_path / "file" / "results")
