"""`edge-tracker tune`: what is searched, that it can be interrupted, and that its scores are those of `eval`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edge_tracker.app.config.loading import load_config
from edge_tracker.app.config.schema import EdgeConfig, TrackerConfig
from edge_tracker.app.evaluation import tuning
from edge_tracker.app.evaluation.evaluation import combine, find_sequences, run_config, score_results
from edge_tracker.errors import ConfigError
from edge_tracker.tracking.edge.settings import EdgeSettings
from tests.waiting import COMPILING_S

optuna = pytest.importorskip("optuna")
pytest.importorskip("trackeval")

NAMES = ["TUD-Stadtmitte", "KITTI-17"]
MOTION = {"detector": {"mot": "det.txt"}, "embedder": {"model": None}}


def config_of(**tracker: object):
    return load_config({**MOTION, "tracker": tracker}, needs_source=False)


def trials_of(output: Path) -> dict[str, list[str]]:
    """The states of the trials of each study."""
    storage = f"sqlite:///{output / tuning.STORAGE}"
    names = optuna.get_all_study_names(storage)
    return {name: [t.state.name for t in optuna.load_study(study_name=name, storage=storage).trials] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["edge", "deepsort"])
def test_scores_are_those_of_eval_and_the_settings_given_take_part(shared_data: Path, tmp_path: Path, method: str):
    sequences = find_sequences(shared_data / "mot15", NAMES)
    config = config_of(method=method)
    result = tuning.tune(config, sequences, tmp_path / "out", trials=3)
    run_config(config, sequences, tmp_path / "eval")
    scored = score_results(sequences, tmp_path / "eval")
    assert result.held_out()[0].values == scored.overall.values
    for fold in result.folds:
        assert combine({fold.name: fold.given}).values == scored.sequences[fold.name].scores.values
    mean = sum(tuning.worth(each.scores) for each in scored.sequences.values()) / 2
    assert result.given_objective == pytest.approx(mean)
    assert result.objective >= result.given_objective
    states = trials_of(tmp_path / "out")
    assert states == {name: ["COMPLETE"] * 3 for name in ("all sequences", *(f"without {name}" for name in NAMES))}

    # What is printed to paste is what was scored.
    pasted = yaml.safe_load(tuning.as_yaml(result.tracker, result.values))
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump({**MOTION, **pasted}))
    tuned = load_config(tmp_path / "tuned.yaml", needs_source=False)
    run_config(tuned, sequences, tmp_path / "tuned")
    again = score_results(sequences, tmp_path / "tuned").sequences.values()
    assert sum(tuning.worth(each.scores) for each in again) / 2 == pytest.approx(result.objective)


@pytest.mark.slow
def test_an_interruption_keeps_what_is_done_and_a_second_call_goes_on(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sequences = find_sequences(shared_data / "mot15", NAMES)
    config, real, calls = config_of(), tuning.Scorer.objective, 0

    def interrupted(self, names, tracker):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(self, names, tracker)

    with monkeypatch.context() as patched:
        patched.setattr(tuning.Scorer, "objective", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tuning.tune(config, sequences, tmp_path, trials=2)
    assert trials_of(tmp_path)["without KITTI-17"] == ["COMPLETE", "FAIL"]
    recorded = {path: path.stat().st_mtime_ns for path in (tmp_path / "recorded").rglob("*.rec")}
    tuning.tune(config, sequences, tmp_path, trials=2)
    assert recorded == {path: path.stat().st_mtime_ns for path in (tmp_path / "recorded").rglob("*.rec")}
    states = trials_of(tmp_path)
    assert states["without KITTI-17"] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert states["without TUD-Stadtmitte"] == states["all sequences"] == ["COMPLETE"] * 2

    with pytest.raises(ConfigError, match="holds a search with other sequences, settings"):
        tuning.tune(config_of(edge={"memory": 4.0}), sequences, tmp_path, trials=2)


@pytest.mark.slow
def test_the_command_prints_a_table_a_verdict_and_settings(shared_data: Path, tmp_path: Path):
    (tmp_path / "cam.yaml").write_text(yaml.safe_dump(MOTION))
    command = [sys.executable, "-m", "edge_tracker", "tune", str(shared_data / "mot15"), "--config", "cam.yaml"]
    command += ["--sequences", *NAMES, "--trials", "2", "--output", "out", "--set", "tracker.edge.swap=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILING_S, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("left out", *NAMES, "together", "HOTA", "IDF1"):
        assert word in done.stdout
    pasted = yaml.safe_load(done.stdout[done.stdout.index("\ntracker:") :])
    load_config({**MOTION, **pasted}, needs_source=False)
    assert pasted["tracker"]["edge"]["swap"] == 0  # off, as given


def test_one_sequence_is_refused_before_anything_is_written(shared_data: Path, tmp_path: Path):
    sequences = find_sequences(shared_data / "mot15", NAMES[:1])
    with pytest.raises(ConfigError, match="two sequences or more"):
        tuning.tune(config_of(), sequences, tmp_path / "out", trials=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "tracker",
    [
        TrackerConfig(),
        TrackerConfig(edge=EdgeConfig(memory=7.0, swap=0.0)),
        TrackerConfig(method="deepsort"),
        TrackerConfig(method="deepsort", max_age=1000, nn_budget=None, max_cosine_distance=0.0),
    ],
)
def test_what_is_given_is_in_the_range_and_what_is_off_stays_off(tracker: TrackerConfig):
    given = tuning.given_values(tracker)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(given)
    assert tuning.suggested(study.ask(), given, tracker.method) == given
    # Several: a whole number may by chance be tried as it was given.
    tried = [tuning.with_values(tracker, tuning.suggested(study.ask(), given, tracker.method)) for _ in range(10)]
    before = tracker.edge or EdgeSettings() if tracker.method == "edge" else tracker
    after = [each.edge if tracker.method == "edge" else each for each in tried]
    for name in tuning.DEEPSORT if tracker.method == "deepsort" else EdgeSettings._fields:
        value = getattr(before, name)
        assert all(getattr(each, name) == value for each in after) == (not value), name
    for each in tried:
        type(each).model_validate(each.model_dump())


def tuned(given: tuple[float, float], found: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> str:
    """The report of two sequences whose scores, as given and tuned, are these."""
    monkeypatch.setattr(tuning, "combine", lambda raws: dict.fromkeys(("HOTA", "IDF1"), sum(raws.values()) / len(raws)))
    folds = [tuning.Fold(name, {}, a, b) for name, a, b in zip(("A", "B"), given, found, strict=True)]
    return tuning.report(tuning.Tuning(TrackerConfig(), folds, {"memory": 4.0}, 60.0, 50.0, 9))


def test_the_verdict_goes_by_the_sequences_left_out(monkeypatch: pytest.MonkeyPatch):
    assert "Tuning helped: better on 2 of the 2" in tuned((50, 50), (51, 52), monkeypatch)
    assert "Tuning did not help: better on 1 of the 2" in tuned((50, 50), (60, 49), monkeypatch)
    assert "Tuning did not help: better on 0 of the 2" in tuned((50, 50), (49, 48), monkeypatch)
