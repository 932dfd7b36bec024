"""Files that appear whole, with the permissions that other new files have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_tracker.files import atomic_path, umask


@pytest.fixture
def group_only():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_nobody_is_shut_out_and_nobody_let_in(tmp_path, group_only):
    with atomic_path(tmp_path / "ours") as partial:
        assert partial.stat().st_mode & 0o777 == 0o600
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_umask_is_known_with_and_without_proc(monkeypatch, group_only):
    def gone(*arguments, **more):
        raise FileNotFoundError

    assert umask() == 0o027
    monkeypatch.setattr(Path, "read_text", gone)
    assert umask() == umask() == 0o027


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as partial:
        partial.write_text("first")
    with pytest.raises(UnicodeError), atomic_path(path) as partial:
        partial.write_bytes("half \ud800".encode())
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]
