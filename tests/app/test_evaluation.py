"""`edge-tracker eval`: scores that agree with motmetrics and with what deep-sort-realtime itself gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_tracker import EdgeDeepSort
from edge_tracker.app.evaluation.evaluation import find_sequences, score_results
from edge_tracker.errors import SourceError
from tests.scoring import iou
from tests.tracking.oracle import make_oracle
from tests.tracking.scenes import crowd
from tests.waiting import COMPILING_S

pytest.importorskip("trackeval")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_tracker", "eval", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMPILING_S)


def write_rows(path: Path, rows: list[tuple[float, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(f"{value:.6g}" for value in row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two synthetic sequences in MOTChallenge's layout."""
    root = tmp_path_factory.mktemp("mot")
    for name, seed in (("ONE", 1), ("TWO", 2)):
        truth, found = [], []
        for frame, (boxes, _, who) in enumerate(crowd(8, 60, 2, seed=seed, width=640, height=480, seen=0.9), start=1):
            truth += [(frame, w + 1, *box, 1, -1, -1, -1) for w, box in zip(who, boxes, strict=True)]
            found += [(frame, -1, *box, 0.95, -1, -1, -1) for box in boxes]
        write_rows(root / name / "gt/gt.txt", truth)
        write_rows(root / name / "det/det.txt", found)
        (root / name / "seqinfo.ini").write_text(
            f"[Sequence]\nname={name}\nimDir=img1\nframeRate=25\nseqLength=60\nimWidth=640\nimHeight=480\nimExt=.jpg\n"
        )
    return root


@pytest.fixture
def motion(tmp_path: Path) -> Path:
    """A configuration that associates by motion alone."""
    path = tmp_path / "motion.yaml"
    path.write_text("detector: {mot: det.txt}\nembedder: {model: null}\n")
    return path


def test_scores_table_json_and_pictures(folder: Path, motion: Path, tmp_path: Path) -> None:
    done = run(folder, "--config", motion, "--json", tmp_path / "s.json", "--plots", tmp_path / "plots")
    assert done.returncode == 0, done.stderr
    for word in ("ONE", "TWO", "overall", "HOTA", "IDF1", "MOTA", "IDSW"):
        assert word in done.stdout
    scores = json.loads((tmp_path / "s.json").read_text())
    assert "overall" in json.dumps(scores)
    for name in ("hota", "timeline-ONE", "timeline-TWO"):
        picture = cv2.imread(str(tmp_path / f"plots/{name}.png"))
        assert picture is not None
        assert picture.std() > 5, f"{name} is empty"


def test_the_truth_itself_scores_full_marks(folder: Path, tmp_path: Path) -> None:
    for name in ("ONE", "TWO"):
        (tmp_path / f"{name}.txt").write_bytes((folder / name / "gt/gt.txt").read_bytes())
    scores = score_results(find_sequences(folder), tmp_path).overall
    assert (scores["HOTA"], scores["IDF1"], scores["MOTA"], scores["IDSW"]) == (100, 100, 100, 0)


def test_a_second_configuration_is_set_beside_the_first(folder: Path, motion: Path) -> None:
    done = run(folder, "--config", motion, "--compare-set", "tracker.method=deepsort", "--sequences", "ONE")
    assert done.returncode == 0, done.stderr
    assert "compared with" in done.stdout
    assert "TWO" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("NOWHERE", "--config", "motion.yaml"), "NOWHERE"),
        (("FOLDER",), "--config and --results"),
        (("FOLDER", "--results", "NOWHERE"), "no such folder"),
        (("FOLDER", "--config", "CONFIG", "--sequences", "THREE"), "THREE"),
        (("FOLDER", "--config", "CONFIG", "--set", "tracker.max_agee=3"), "max_age"),
        (("FOLDER", "--config", "CONFIG", "--set", "embedder.model=mobilenetv2"), "ONE"),
    ],
)
def test_what_is_wrong_takes_one_line(folder: Path, motion: Path, arguments: tuple[str, ...], complaint: str) -> None:
    named = {"FOLDER": str(folder), "CONFIG": str(motion)}
    done = run(*(named.get(word, word) for word in arguments))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert complaint in done.stderr


def test_results_that_are_missing_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"ONE\.txt"):
        score_results(find_sequences(folder), tmp_path)


def test_agrees_with_motmetrics(shared_data: Path, tmp_path: Path) -> None:
    motmetrics = pytest.importorskip("motmetrics")
    sequence = shared_data / "mot15/TUD-Stadtmitte"
    rows = track(sequence, EdgeDeepSort(embedder=None))
    write_rows(tmp_path / "TUD-Stadtmitte.txt", rows)
    ours = score_results(find_sequences(shared_data / "mot15", ["TUD-Stadtmitte"]), tmp_path).overall

    truth = np.loadtxt(sequence / "gt/gt.txt", delimiter=",")
    truth, found = truth[truth[:, 6] != 0], np.array(rows)
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for frame in range(1, 180):
        real, seen = truth[truth[:, 0] == frame], found[found[:, 0] == frame]
        distance = 1 - iou(real[:, 2:6], seen[:, 2:6])  # motmetrics' own does not run on NumPy 2
        distance[distance > 0.5] = np.nan
        accumulator.update(real[:, 1].astype(int), seen[:, 1].astype(int), distance)
    theirs = motmetrics.metrics.create().compute(accumulator, metrics=["mota", "idf1", "num_switches"]).iloc[0]
    assert ours["MOTA"] == pytest.approx(100 * theirs["mota"], abs=0.1)
    assert ours["IDF1"] == pytest.approx(100 * theirs["idf1"], abs=0.1)
    assert ours["IDSW"] == theirs["num_switches"]


@pytest.mark.slow
def test_exact_mode_scores_as_deep_sort_realtime(shared_data: Path, tmp_path: Path) -> None:
    names = ["TUD-Stadtmitte", "KITTI-17"]
    sequences = find_sequences(shared_data / "mot15", names)
    for name in names:
        folder = shared_data / "mot15" / name
        write_rows(tmp_path / f"ours/{name}.txt", track(folder, EdgeDeepSort(embedder=None)))
        write_rows(tmp_path / f"theirs/{name}.txt", track(folder, make_oracle(nn_budget=100)))
    ours, theirs = (score_results(sequences, tmp_path / who).overall for who in ("ours", "theirs"))
    assert ours["HOTA"] == pytest.approx(theirs["HOTA"], abs=0.3)
    assert ours["IDSW"] == pytest.approx(theirs["IDSW"], abs=1)


def track(sequence: Path, tracker: EdgeDeepSort) -> list[tuple[float, ...]]:
    """Rows of a result file: confirmed tracks with a detection, on recorded detections and made-up features."""
    found = np.loadtxt(sequence / "det/det.txt", delimiter=",")
    rng = np.random.default_rng(0)
    waves = rng.normal(0, 1 / 150, (4, 16))
    rows = []
    for frame in range(1, int(found[:, 0].max()) + 1):
        here = found[found[:, 0] == frame]
        features = np.cos(here[:, 2:6] @ waves) + rng.normal(0, 0.3, (len(here), 16))
        raw = [(row[2:6].tolist(), float(row[6]), "person") for row in here]
        rows += [
            (frame, int(each.track_id), *each.to_ltwh(), 1, -1, -1, -1)
            for each in tracker.update_tracks(raw, embeds=list(features.astype(np.float32)))
            if each.is_confirmed() and each.time_since_update == 0
        ]
    return rows


@pytest.mark.slow
def test_real_features_in_exact_mode_score_what_they_are_known_to(
    shared_data: Path, engines: Path, tmp_path: Path
) -> None:
    model = engines / "mobilenetv2.onnx"
    config = {
        "device": "cpu",
        "detector": {"mot": "det.txt", "confidence": 0.0},
        "embedder": {"model": str(model)},
        "tracker": {"method": "deepsort"},
    }
    path = tmp_path / "exact.yaml"
    path.write_text(json.dumps(config))
    done = run(
        shared_data / "mot15", "--config", path, "--sequences", "PETS09-S2L1", "TUD-Stadtmitte",
        "--json", tmp_path / "s.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    overall = json.loads((tmp_path / "s.json").read_text())["evaluations"][0]["overall"]
    # Of `python -m benchmarks.quality --embedder mobilenetv2`, as in the README.
    assert overall["HOTA"] == pytest.approx(42.0, abs=0.3)
    assert overall["IDF1"] == pytest.approx(59.5, abs=0.5)
    assert overall["MOTA"] == pytest.approx(65.2, abs=0.3)
    assert overall["IDSW"] == pytest.approx(83, abs=3)
