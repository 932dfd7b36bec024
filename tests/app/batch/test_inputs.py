"""Finding the videos of a batch, and the folders of their results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_tracker.app.batch.inputs import find_videos, printable
from edge_tracker.errors import ConfigError, EdgeTrackerError, OutputError, SourceError


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Videos in folders; the current folder holds it."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "a.avi", "door/b.MP4", "door/2024/c.mkv", "door/notes.txt", ".hidden/d.mp4"):
        path = Path("archive", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "archive"


def places(*inputs: str, output: str = "results") -> list[str]:
    return [str(video.place) for video in find_videos(inputs, Path(output))]


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (["archive"], ["a.avi", "a.mp4", "door/2024/c.mkv", "door/b.MP4"]),
        (["archive/"], ["a.avi", "a.mp4", "door/2024/c.mkv", "door/b.MP4"]),
        (["archive/**/*.mp4"], ["a.mp4"]),
        (["archive/**/*.[mM]*"], ["a.mp4", "door/2024/c.mkv", "door/b.MP4"]),
        (["archive/*/*.MP4"], ["door/b.MP4"]),
        (["archive/door/b.MP4"], ["b.MP4"]),
        (["archive/door/*.txt"], ["notes.txt"]),
        (["archive/door", "archive/a.*"], ["a.avi", "a.mp4", "2024/c.mkv", "b.MP4"]),
        (["archive/a.mp4", "archive/*.mp4"], ["a.mp4"]),
    ],
)
def test_videos_and_their_places(archive, inputs, found):
    assert places(*inputs) == found


def test_paths_are_absolute_and_a_home_is_found(archive, monkeypatch):
    monkeypatch.setenv("HOME", str(archive))
    (video,) = find_videos(["~/*.mp4"], Path("results"))
    assert video.path == archive / "a.mp4"


def test_results_are_no_videos(archive):
    results = archive / "results" / "a.mp4"
    results.mkdir(parents=True)
    (results / "annotated.mp4").write_bytes(b"x")
    assert "results/a.mp4/annotated.mp4" in places("archive")
    assert places("archive/**/*.mp4", output="archive/results") == ["a.mp4"]


@pytest.mark.parametrize(
    ("inputs", "error", "said"),
    [
        (["archive/no.mp4"], SourceError, "archive/no.mp4: no such file or folder"),
        (["archive/*.ogv"], ConfigError, "gives no video"),
        (["archive/.hidden/nothing"], SourceError, "no such file"),
        (["archive", "archive/door/2024"], None, ""),
        (["archive/*.jpg"], ConfigError, "gives images"),
        (["archive/a.mp4", "other/a.mp4"], ConfigError, "would both have their results in a.mp4"),
        (["archive/a.mp4", "nested"], ConfigError, "would hold those of"),
    ],
)
def test_what_is_refused(archive, inputs, error, said):
    for name in ("archive/x.jpg", "other/a.mp4", "nested/a.mp4/b.mp4"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")
    if error is None:  # one path, found twice
        assert len(set(places(*inputs))) == len(places(*inputs))
        return
    with pytest.raises(error, match=said) as raised:
        find_videos(inputs, Path("results"))
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, EdgeTrackerError)


def test_an_output_that_is_a_file(archive):
    Path("results").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        find_videos(["archive"], Path("results"))


def test_names_that_do_not_print():
    assert printable("Straße.mp4") == "Straße.mp4"
    assert printable(os.fsdecode(b"a\xff\n.mp4")) == r"a\udcff\n.mp4"
