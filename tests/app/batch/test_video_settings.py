"""The settings that a configuration gives a batch, and the changes that make results out of date."""

from __future__ import annotations

import pytest

from edge_tracker.app.batch.video_settings import Cut, settings_of
from edge_tracker.app.config.loading import load_config
from edge_tracker.errors import ConfigError, ModelError
from tests.graphs import relu

CUT = Cut(60, 10)
ZONE = "zones: {yard: {polygon: [[0, 0], [9, 0], [9, 9]]}}"


@pytest.fixture
def settings(tmp_path):
    """The settings of a configuration: its lines, `--set`s, a cut."""
    relu(tmp_path / "detector.onnx")
    relu(tmp_path / "looks.onnx", {"other": "content"})
    path = tmp_path / "cam.yaml"

    def _settings(*lines: str, sets: tuple[str, ...] = (), cut: Cut | None = None):
        given = ["detector: {model: detector.onnx}", "embedder: {model: looks.onnx}", *lines]
        path.write_text("\n".join(given))
        return settings_of(load_config(path, sets, needs_source=False), cut)

    return _settings


@pytest.mark.parametrize(
    "sets",
    [
        "tracker.max_age=31",
        "detector.confidence=0.31",
        "detector.classes=[person]",
        "embedder.model=null",
        "source.fps=12",
        "device=cpu",
        "outputs.video=v.mp4",
        "outputs.coast=2",
        "zones.yard.polygon=[[0,0],[9,0],[9,9]]",
        "lines.gate={start: [0, 0], end: [1, 1]}",
        "mqtt={host: h, update_every: 3}",
    ],
)
def test_what_decides_about_results_changes_the_key(settings, sets):
    assert settings(sets=(sets,)).key != settings().key


@pytest.mark.parametrize("sets", ["threads=3", "source.uri=other.mp4", "server={port: 1234}", "outputs.keep=3"])
def test_what_does_not_leaves_the_key(settings, sets):
    assert settings(sets=(sets,)).key == settings().key


def test_the_key_knows_the_models_by_their_content_and_not_their_place(settings, tmp_path):
    before = settings().key
    (tmp_path / "elsewhere").mkdir()
    relu(tmp_path / "elsewhere" / "detector.onnx")
    assert settings(sets=(f"detector.model={tmp_path}/elsewhere/detector.onnx",)).key == before
    relu(tmp_path / "detector.onnx", {"trained": "again"})
    after = settings().key
    assert after != before
    (tmp_path / "detector.json").write_text("{}")  # a manifest
    assert settings().key != after


def test_the_key_knows_the_cut_and_the_version(settings, monkeypatch):
    keys = {settings().key, settings(cut=CUT).key, settings(cut=Cut(60, 11)).key}
    monkeypatch.setattr("edge_tracker.app.batch.video_settings.__version__", "99")
    assert len(keys | {settings().key}) == 4


def test_outputs_are_those_named_or_mot(settings):
    assert settings().outputs() == {"mot": "tracks.txt"}
    named = settings("name: door", "outputs: {jsonl: 'x/{camera}.jsonl', video: y/seen.mp4}")
    assert named.outputs() == {"jsonl": "door.jsonl", "video": "seen.mp4"}


def test_models_are_known_by_absolute_paths(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(tmp_path))
    config = settings(sets=("detector.model=detector", "embedder.model=looks")).config
    assert config.detector.model == str(tmp_path / "detector.onnx")
    assert config.embedder.model == str(tmp_path / "looks.onnx")


def test_what_has_no_meaning_is_said(settings):
    assert settings().ignored == ()
    lines = settings(
        "source: {uri: 'rtsp://me:secret@camera/1'}", "mqtt: {host: broker}", "server: {port: 1234}",
        "outputs: {mot: t.txt, rotate_daily: true}", sets=("detector.hold_fps=10",),
    ).ignored  # fmt: skip
    assert [line.split()[0] for line in lines] == [
        "source.uri", "mqtt", "server", "outputs.rotate_mib", "detector.hold_fps",
    ]  # fmt: skip
    assert "secret" not in " ".join(lines)


@pytest.mark.parametrize(
    ("lines", "sets", "cut", "said"),
    [
        (["cameras: [{name: a, source: {uri: 0}}]"], (), None, "cameras: a batch runs the configuration of one camera"),
        ([], ("detector={mot: det.txt}",), None, "detector.mot: has the detections of a single video"),
        (["outputs: {mot: a/x.txt, jsonl: b/x.txt}"], (), None, "outputs: two have the same file name"),
        ([ZONE], (), CUT, "--cut: counts of zones cannot be joined"),
        (["lines: {gate: {start: [0, 0], end: [1, 1]}}"], (), CUT, "--cut: counts of lines cannot be joined"),
        (["outputs: {video: v.mp4}"], (), CUT, "--cut: outputs.video cannot be joined"),
        ([], (), Cut(10, 10), "--overlap: 10 s is not shorter than --cut: 10 s"),
    ],
)
def test_what_is_refused(settings, lines, sets, cut, said):
    with pytest.raises(ConfigError, match=said):
        settings(*lines, sets=sets, cut=cut)


def test_a_model_that_is_missing_is_named_with_its_key(settings):
    with pytest.raises(ModelError, match=r"embedder\.model: .*gone\.onnx: no such model file"):
        settings(sets=("embedder.model=gone.onnx",))
