"""Finding model files by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_tracker.errors import ModelError
from edge_tracker.inference import locate
from edge_tracker.inference.locate import find_model


@pytest.fixture
def folders(tmp_path, monkeypatch) -> dict[str, Path]:
    """The three places, empty."""
    places = {"chosen": tmp_path / "chosen", "here": tmp_path / "work/engines", "user": tmp_path / "user/engines"}
    for place in places.values():
        place.mkdir(parents=True)
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(places["chosen"]))
    monkeypatch.setattr(locate, "user_data_path", lambda _: tmp_path / "user")
    monkeypatch.chdir(tmp_path / "work")
    return places


def test_names_are_looked_for_in_order(folders):
    for place in ("user", "here", "chosen"):
        (folders[place] / "net.onnx").touch()
        assert find_model("net").resolve() == folders[place] / "net.onnx"


def test_onnx_comes_before_an_engine_of_the_same_name(folders):
    (folders["here"] / "net.engine").touch()
    assert find_model("net").name == "net.engine"
    (folders["here"] / "net.onnx").touch()
    assert find_model("net").name == "net.onnx"


def test_a_slash_in_a_name_is_a_dash_in_the_file(folders):
    (folders["here"] / "clip_ViT-B-32.onnx").touch()
    assert find_model("clip_ViT-B/32").name == "clip_ViT-B-32.onnx"


def test_paths_are_taken_as_they_are(folders, tmp_path, monkeypatch):
    path = tmp_path / "some.onnx"
    path.touch()
    assert find_model(path) == find_model(str(path)) == path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_model("~/some.onnx") == path
    with pytest.raises(ModelError, match=r"other\.onnx: no such model file"):
        find_model(tmp_path / "other.onnx")


def test_the_error_says_where_was_looked_and_what_makes_the_model(folders):
    with pytest.raises(ModelError) as caught:
        find_model("mobilenetv2")
    message = str(caught.value)
    assert "make export MODELS=mobilenetv2" in message
    assert str(folders["chosen"]) in message
    assert "engines" in message
    assert str(folders["user"]) in message
    assert "\n" not in message


def test_other_files_are_no_models(folders, tmp_path):
    path = tmp_path / "weights.pt"
    path.touch()
    with pytest.raises(ModelError, match=r"weights.pt: not a model file; models end in .onnx or .engine"):
        find_model(path)
