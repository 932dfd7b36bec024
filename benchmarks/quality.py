"""Quality on MOTChallenge sequences: `method="edge"` beside exact mode, with jitter, on copies, and part by part.

python -m benchmarks.quality ../shared/data/mot15
python -m benchmarks.quality ../shared/data/mot15 --draws 20 --copies forward reversed half --parts
python -m benchmarks.quality ../shared/data/mot15 --sequences PETS09-S2L1 TUD-Stadtmitte --embedder mobilenetv2
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_tracker import EdgeDeepSort
from edge_tracker.app.evaluation.evaluation import Evaluation, MotSequence, find_sequences, score_results
from edge_tracker.tracking.edge.settings import EdgeSettings

COPIES = ("forward", "reversed", "half")
METRICS = ("HOTA", "IDF1", "MOTA", "IDSW")
JITTER = 0.2
# Settings that switch a part of the method off. Those of the second table need appearance.
MOTION_PARTS = {
    "camera": {"camera": 0.0},
    "evidence": {"evidence": 0.0},
    "doubt": {"doubt": 0.0},
    "memory": {"memory": 0.0},
}
APPEARANCE_PARTS = {"re-entry": {"reenter_age": 0.0}, "crossings": {"overlap": 1.0}, "clean crops": {"clean": 1.0}}


class RecordedSequence(NamedTuple):
    """Detections of a sequence, frame by frame: ltwh (M, 4), confidence (M,), features (M, D) or None."""

    sequence: MotSequence
    frames: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]


class RecordedEmbedder:
    """An embedder that returns precomputed features, for the boxes of the current frame."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.known: dict[tuple[float, ...], np.ndarray] = {}

    def show(self, ltwh: np.ndarray, features: np.ndarray) -> None:
        """Set the current frame."""
        self.known = {tuple(box): feature for box, feature in zip(ltwh.tolist(), features, strict=True)}

    def embed(self, frame, ltwh, masks=None, polygons=None) -> np.ndarray:  # type: ignore[no-untyped-def]
        """Features (M, D), as from `Embedder.embed`."""
        return np.array([self.known[tuple(box)] for box in ltwh.tolist()], np.float32).reshape(-1, self.dimension)


def rows_of(path: Path, length: int) -> list[np.ndarray]:
    """The rows of a MOTChallenge file, frame by frame."""
    rows = np.loadtxt(path, delimiter=",", ndmin=2)
    return [rows[rows[:, 0] == frame] for frame in range(1, length + 1)]


def record(sequence: MotSequence, model: str | None) -> RecordedSequence:
    """Read the detections of a sequence, and embed all of them if a model is given."""
    found = rows_of(sequence.detections, sequence.length)
    if model is None:
        return RecordedSequence(sequence, [(rows[:, 2:6].copy(), rows[:, 6].copy(), None) for rows in found])
    from edge_tracker.app.sources.opening import open_source
    from edge_tracker.embedding.embedder import Embedder

    source, embedder = open_source(str(sequence.images), sequence.fps), Embedder(model, device="cpu")
    frames = []
    for rows, frame in zip(found, source, strict=False):
        boxes = rows[:, 2:6].copy()
        frames.append((boxes, rows[:, 6].copy(), embedder.embed(frame.image, boxes)))
    embedder.close()
    source.close()
    return RecordedSequence(sequence, frames)


def copy_of(recording: RecordedSequence, kind: str, folder: Path) -> RecordedSequence:
    """The recording backwards or at half the rate, with its ground truth written to `folder`."""
    if kind == "forward":
        return recording
    sequence = recording.sequence
    step, rate = (slice(None, None, -1), 1) if kind == "reversed" else (slice(None, None, 2), 2)
    truth = rows_of(sequence.ground_truth, sequence.length)[step]
    for frame, rows in enumerate(truth, start=1):
        rows[:, 0] = frame
    folder = folder / kind / sequence.name
    (folder / "gt").mkdir(parents=True)
    np.savetxt(folder / "gt" / "gt.txt", np.concatenate(truth), fmt="%.12g", delimiter=",")
    return RecordedSequence(MotSequence(folder, len(truth), sequence.fps / rate, None), recording.frames[step])


def track(recording: RecordedSequence, results: Path, selective: bool = False, **arguments) -> float:  # type: ignore[no-untyped-def]
    """Track a recording into `results/SEQ.txt`, and return the share of detections that were embedded."""
    edge = arguments.get("method") == "edge"
    first = next((features for _, _, features in recording.frames if features is not None), None)
    replay = RecordedEmbedder(first.shape[1]) if first is not None and selective else None
    if edge:
        arguments["frame_rate"] = recording.sequence.fps
    tracker = EdgeDeepSort(embedder=replay, **arguments)  # type: ignore[arg-type]
    asked = total = 0
    lines = []
    for frame, (ltwh, confidence, features) in enumerate(recording.frames, start=1):
        if replay is not None:
            replay.show(ltwh, features)  # type: ignore[arg-type]
        given = None if replay is not None else features
        tracks = tracker.update(ltwh, confidence, features=given, frame=np.zeros((1, 1, 3), np.uint8))
        asked, total = asked + tracker.embedded, total + len(ltwh)
        shown = tracks[tracks.confirmed & (tracks.detection >= 0)]
        for number, (left, top, right, bottom) in zip(shown.ids.tolist(), shown.ltrb.tolist(), strict=True):
            lines.append(f"{frame},{number},{left:.3f},{top:.3f},{right - left:.3f},{bottom - top:.3f},1,-1,-1,-1\n")
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{recording.sequence.name}.txt").write_text("".join(lines))
    return asked / max(total, 1)


def evaluate(recordings: Sequence[RecordedSequence], selective: bool = False, **arguments) -> tuple[Evaluation, float]:  # type: ignore[no-untyped-def]
    """Track and score, and return the scores and the mean share of detections that were embedded."""
    with tempfile.TemporaryDirectory() as folder:
        shares = [track(recording, Path(folder), selective, **arguments) for recording in recordings]
        return score_results([recording.sequence for recording in recordings], folder), float(np.mean(shares))


def jittered(rng: np.random.Generator) -> EdgeSettings:
    """The default settings, each changed by up to `JITTER`."""
    return EdgeSettings(*(value * rng.uniform(1 - JITTER, 1 + JITTER) for value in EdgeSettings()))


def part_settings(appearance: bool) -> dict[str, EdgeSettings]:
    """Settings for the method, for it without each part, for the plain method without any, and with each part alone."""
    parts: dict[str, dict[str, float]] = MOTION_PARTS | APPEARANCE_PARTS if appearance else MOTION_PARTS
    default, plain = EdgeSettings(), EdgeSettings()
    for changes in parts.values():
        plain = plain._replace(**changes)
    rows = {"all parts": default}
    rows |= {f"without {name}": default._replace(**changes) for name, changes in parts.items()}
    rows["plain, without any"] = plain
    for name in parts:
        rows[f"plain with {name}"] = plain._replace(**{key: getattr(default, key) for key in parts[name]})
    return rows


def line(name: str, values: Sequence[float], share: float | None = None) -> None:
    """Print one row of the table."""
    embedded = "" if share is None else f" {100 * share:.1f} %"
    print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + f" |{embedded} |", flush=True)


def of(scores: Evaluation) -> list[float]:
    """The figures of a row."""
    return [scores.overall[metric] for metric in METRICS]


def jitter(recordings: Sequence[RecordedSequence], draws: int, name: str, selective: bool = False) -> None:
    """Print the means over jittered settings, which are the same in each call."""
    rng = np.random.default_rng(0)
    runs = [evaluate(recordings, selective, method="edge", edge_settings=jittered(rng)) for _ in range(draws)]
    share = float(np.mean([share for _, share in runs])) if selective else None
    line(f"{name}, mean of {draws}", np.mean([of(scores) for scores, _ in runs], axis=0).tolist(), share)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="MOTChallenge folder")
    parser.add_argument("--sequences", nargs="+", default=[], help="sequences of the folder; all by default")
    parser.add_argument("--embedder", help="embedder for sequences with frames; none: motion alone")
    parser.add_argument("--copies", nargs="+", choices=COPIES, default=["forward"])
    parser.add_argument("--draws", type=int, default=0, help="number of jittered settings to average over")
    parser.add_argument("--parts", action="store_true", help="also switch each part of the method off")
    parser.add_argument("--each", action="store_true", help="also print every sequence by itself")
    options = parser.parse_args()
    recordings = [record(sequence, options.embedder) for sequence in find_sequences(options.folder, options.sequences)]
    print("| | " + " | ".join(METRICS) + " | embedded |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.copies:
            copies = [copy_of(recording, kind, Path(folder)) for recording in recordings]
            exact, _ = evaluate(copies)
            line(f"{kind}: exact mode", of(exact))
            edge, _ = evaluate(copies, method="edge")
            line(f"{kind}: edge", of(edge))
            if options.each:
                for name, scores in edge.sequences.items():
                    line(f"{kind}: {name}, exact mode", [exact.sequences[name].scores[m] for m in METRICS])
                    line(f"{kind}: {name}, edge", [scores.scores[m] for m in METRICS])
            if options.embedder:
                selective, share = evaluate(copies, selective=True, method="edge")
                line(f"{kind}: edge, embedding where it matters", of(selective), share)
            if options.draws:
                jitter(copies, options.draws, f"{kind}: edge")
                if options.embedder:
                    jitter(copies, options.draws, f"{kind}: edge, embedding where it matters", selective=True)
            for name, settings in part_settings(bool(options.embedder)).items() if options.parts else ():
                line(f"{kind}: {name}", of(evaluate(copies, method="edge", edge_settings=settings)[0]))


if __name__ == "__main__":
    main()
