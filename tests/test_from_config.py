"""`EdgeDeepSort.from_config`: the tracker that a `cam.yaml` describes, without its source and detector."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_tracker import EdgeDeepSort
from edge_tracker.errors import ConfigError

MOTION = {"embedder": {"model": None}, "tracker": {"method": "deepsort", "max_age": 7, "n_init": 2}}


def test_a_mapping_describes_a_tracker() -> None:
    tracker = EdgeDeepSort.from_config(MOTION)
    assert tracker.embedder is None
    assert tracker.method == "deepsort"
    settings = tracker.tracker.core.settings
    assert (settings.max_age, settings.n_init) == (7, 2)
    box = np.array([[10.0, 10.0, 20.0, 40.0]])
    assert not tracker.update(box).confirmed.any()
    assert tracker.update(box + 1).confirmed.all()


def test_a_file_describes_the_same_tracker(tmp_path: Path) -> None:
    path = tmp_path / "cam.yaml"
    path.write_text("embedder: {model: null}\ntracker: {method: deepsort, max_age: 7, n_init: 2}\n")
    assert (
        EdgeDeepSort.from_config(path).tracker.core.settings == EdgeDeepSort.from_config(MOTION).tracker.core.settings
    )


def test_the_embedder_is_the_configured_one(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(engines))
    tracker = EdgeDeepSort.from_config({"device": "cpu", "embedder": {"model": "mobilenetv2"}}, frame_rate=25)
    assert tracker.embedder is not None
    assert tracker.embedder.dimension == 1280
    assert tracker.method == "edge"  # the program's default


def test_the_mapping_is_left_alone() -> None:
    config = {"embedder": {"model": None}, "tracker": {"max_age": 7}, "outputs": None}
    before = repr(config)
    EdgeDeepSort.from_config(config)
    assert repr(config) == before


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"tracker": {"max_agee": 7}}, "max_age"),
        ({"tracker": {"max_age": -1}}, "tracker.max_age: -1"),
        ({"tracker": 3}, "tracker"),
    ],
)
def test_what_is_wrong_is_named(config: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        EdgeDeepSort.from_config(config)


def test_a_subclass_has_it_too() -> None:
    class Own(EdgeDeepSort):
        pass

    assert Own.from_config(MOTION).method == "deepsort"


def test_it_works_whichever_module_was_imported_first() -> None:
    program = f"from edge_tracker.deepsort import EdgeDeepSort\nprint(EdgeDeepSort.from_config({MOTION!r}).method)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "deepsort\n"
