"""`edge-tracker eval`: runs a configuration on the sequences of a MOTChallenge folder, and scores the results.

TrackEval does the scoring, by MOTChallenge's own rules. It is imported where it is used, since tracking does not need
it.
"""

from __future__ import annotations

import configparser
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_tracker.app.config.loading import load_config, needs_frames
from edge_tracker.app.config.schema import Config, OutputsConfig, SourceConfig
from edge_tracker.app.extras import extra
from edge_tracker.errors import ConfigError, OutputError, SourceError
from edge_tracker.files import atomic_path

log = logging.getLogger(__name__)

METRICS = ("HOTA", "DetA", "AssA", "IDF1", "MOTA", "IDSW", "Frag", "FP", "FN", "MT", "ML")
COUNTS = frozenset(METRICS[5:])
COMPARED = ("HOTA", "IDF1", "MOTA", "IDSW")
CURVES = ("HOTA", "DetA", "AssA")
ALPHAS = np.arange(0.05, 0.99, 0.05)  # the overlaps over which HOTA is a mean
MATCH_IOU = 0.5  # the overlap from which CLEAR counts a box as found

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
ABSENT, MISSED = -1, -2  # in a timeline: the identity is not there; it is there, but no track covers it

Raw = dict[str, dict[str, Any]]  # TrackEval's result: metric family -> field -> value


# ---- the folder ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MotSequence:
    """One sequence with ground truth.

    Attributes:
        folder: holds `gt/gt.txt`, `det/det.txt`, and perhaps the images.
        length: frames.
        fps: frames per second.
        images: the folder of images or the video; None if there is neither.
    """

    folder: Path
    length: int
    fps: float
    images: Path | None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def ground_truth(self) -> Path:
        return self.folder / "gt" / "gt.txt"

    @property
    def detections(self) -> Path:
        return self.folder / "det" / "det.txt"


def find_sequences(folder: str | Path, names: Iterable[str] = ()) -> list[MotSequence]:
    """The sequences with ground truth in a folder, by name; or the folder itself, if it is a sequence.

    Args:
        folder: holds a folder for each sequence.
        names: only these sequences.

    Raises:
        SourceError: there is none, one of `names` is not there, or a `seqinfo.ini` cannot be read.
    """
    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        raise SourceError(
            f"{folder}: no such folder; give one in MOTChallenge's layout: SEQ/gt/gt.txt, SEQ/seqinfo.ini"
        )
    candidates = [folder] if (folder / "gt" / "gt.txt").is_file() else sorted(folder.iterdir())
    found = {path.name: path for path in candidates if (path / "gt" / "gt.txt").is_file()}
    if not found:
        raise SourceError(f"{folder}: no sequence with ground truth in it; expected SEQ/gt/gt.txt")
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in found]
    if unknown:
        raise SourceError(f"{folder}: no sequence {', '.join(unknown)}; there are {', '.join(found)}")
    return [_open_sequence(found[name]) for name in names or found]


def _open_sequence(folder: Path) -> MotSequence:
    info = folder / "seqinfo.ini"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with info.open(encoding="utf-8-sig") as file:
            parser.read_file(file)
        section = parser["Sequence"]
        length, fps = int(section["seqLength"]), float(section["frameRate"])
    except OSError as error:
        raise SourceError(f"{info}: cannot be read: {error.strerror}") from None
    except (configparser.Error, KeyError, ValueError):
        raise SourceError(f"{info}: expected a section [Sequence] with seqLength=FRAMES and frameRate=FPS") from None
    if length < 1 or not 0 < fps <= 1000:
        raise SourceError(f"{info}: seqLength={length} and frameRate={fps:g} are not possible")
    images = folder / section.get("imDir", "img1")
    if images.is_dir():
        return MotSequence(folder, length, fps, images)
    videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if len(videos) > 1:
        raise SourceError(
            f"{folder}: which of {', '.join(path.name for path in videos)} is the sequence? Keep only one"
        )
    return MotSequence(folder, length, fps, videos[0] if videos else None)


# ---- running -------------------------------------------------------------------------------------------------------


def config_for(config: Config, sequence: MotSequence, results: Path | None) -> Config:
    """A configuration for one sequence: its frames, its detections, and `results` as the only output.

    The public detections `det/det.txt` are used unless the configuration names a detector's model.

    Raises:
        SourceError: the sequence lacks what the configuration needs.
    """
    detector = config.detector
    if detector.model is None:
        if not sequence.detections.is_file():
            raise SourceError(
                f"{sequence.name}: no det/det.txt; name a model instead, such as --set detector.model=yolov3-tiny"
            )
        detector = detector.model_copy(update={"mot": str(sequence.detections)})
    outputs = OutputsConfig(mot=None if results is None else str(results))
    config = config.model_copy(update={"detector": detector, "outputs": outputs})
    if not needs_frames(config):
        return config.model_copy(update={"source": SourceConfig(fps=sequence.fps)})
    if sequence.images is None:
        key = "detector.model" if config.embedder.model is None else "embedder.model"
        raise SourceError(
            f"{sequence.name}: {key} needs frames, but there is neither img1 nor a video; choose others: --sequences"
            + ("" if key == "detector.model" else ", or track by motion alone: --set embedder.model=null")
        )
    return config.model_copy(update={"source": SourceConfig(uri=str(sequence.images), fps=sequence.fps)})


def run_config(
    config: Config, sequences: Sequence[MotSequence], output: Path, build: bool = True, record: Path | None = None
) -> None:
    """Track all sequences as `edge-tracker run` would, write `output/SEQ.txt` for each, and record into `record/SEQ`.

    Raises:
        EdgeTrackerError: something cannot be opened, a sequence lacks a file, or a result cannot be written.
        KeyboardInterrupt: a signal ended the run.
    """
    from edge_tracker.app.run.pipeline import Pipeline, RecordFolder

    configs = [config_for(config, sequence, output / f"{sequence.name}.txt") for sequence in sequences]
    for sequence, own in zip(sequences, configs, strict=True):
        folder = None if record is None else RecordFolder(record / sequence.name)
        with Pipeline(own, build=build, record=folder) as pipeline:
            pipeline.run(sequence.length)
        summary = pipeline.summary
        if summary.stopped_by is not None:
            raise KeyboardInterrupt
        if own.source.uri is not None and summary.frames < sequence.length:
            log.warning("%s: %d frames, of the %d in seqinfo.ini", own.source.uri, summary.frames, sequence.length)
        log.info("%s: %d frames, %.0f per second", sequence.name, summary.frames, summary.fps)


# ---- scoring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """The scores of one sequence, or of several together.

    Attributes:
        values: each metric's value by its name in `METRICS`: percent, or a number for those in `COUNTS`.
        curves: HOTA, DetA and AssA in percent at each overlap of `ALPHAS`.
    """

    values: dict[str, float]
    curves: dict[str, list[float]]

    def __getitem__(self, metric: str) -> float:
        return self.values[metric]


class Switch(NamedTuple):
    """A change of the track that covers an identity."""

    frame: int
    identity: int
    before: int
    after: int


@dataclass(frozen=True)
class Timeline:
    """The track that covers each identity of the ground truth, frame by frame, as CLEAR matches them.

    Attributes:
        identities: (G,) int64 numbers of the ground truth.
        tracks: (G, T) int64 track numbers, ABSENT or MISSED.
        switches: all switches that CLEAR counts, in order of frames.
    """

    identities: np.ndarray
    tracks: np.ndarray
    switches: list[Switch]


@dataclass(frozen=True)
class SequenceResult:
    """The scores of one sequence, and the data behind them."""

    scores: Scores
    timeline: Timeline
    raw: Raw


@dataclass(frozen=True)
class Evaluation:
    """The scores of one configuration or result folder.

    Attributes:
        name: the configuration or folder.
        sequences: the results by name.
        overall: the scores of all sequences as if they were one (TrackEval's COMBINED).
    """

    name: str
    sequences: dict[str, SequenceResult]
    overall: Scores

    def rows(self) -> dict[str, Scores]:
        """The scores by sequence, and those overall."""
        return {**{name: result.scores for name, result in self.sequences.items()}, "overall": self.overall}


def score_results(sequences: Sequence[MotSequence], results: str | Path, name: str = "") -> Evaluation:
    """Score result files against the ground truth.

    Args:
        sequences: the sequences.
        results: the folder of `SEQ.txt` (or `data/SEQ.txt`, as in TrackEval) for each sequence.
        name: the evaluation's name; the folder's name by default.

    Raises:
        ConfigError: TrackEval is not installed.
        SourceError: a file is missing or not in MOTChallenge's format.
    """
    results = Path(results).expanduser().absolute()
    scored = {sequence.name: score_sequence(sequence, results) for sequence in sequences}
    overall = combine({name: result.raw for name, result in scored.items()})
    return Evaluation(name or results.name, scored, overall)


def score_sequence(sequence: MotSequence, results: Path) -> SequenceResult:
    """Score `results/SEQ.txt`; see `score_results`."""
    raw, data, dataset = _prepared(sequence, results)
    computed = _computed(data)
    return SequenceResult(_scores(computed), _timeline(data, _kept_identities(raw, dataset)), computed)


def compute(sequence: MotSequence, results: Path) -> Raw:
    """The input of `combine` for `results/SEQ.txt`. Raises as `score_results`."""
    return _computed(_prepared(sequence, results)[1])


def _computed(data: dict[str, Any]) -> Raw:
    return {family: metric.eval_sequence(data) for family, metric in _metrics().items()}


def _prepared(sequence: MotSequence, results: Path) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Ground truth and results as TrackEval reads them, the same prepared for its metrics, and its dataset."""
    trackeval = require_trackeval()
    results = _results_of(sequence, results)
    try:
        dataset = trackeval.datasets.MotChallenge2DBox(
            {
                "GT_FOLDER": str(sequence.folder.parent),
                "TRACKERS_FOLDER": str(results.parent),
                "TRACKERS_TO_EVAL": [results.name],
                "TRACKER_SUB_FOLDER": "",
                "SEQ_INFO": {sequence.name: sequence.length},
                "SKIP_SPLIT_FOL": True,
                "BENCHMARK": _benchmark(sequence),
                "PRINT_CONFIG": False,
            }
        )
        raw = dataset.get_raw_seq_data(results.name, sequence.name)
        # Scoring needs no confidences. They carry the track numbers through the preprocessing, which renumbers tracks.
        raw["tracker_confidences"] = raw["tracker_ids"]
        data = dataset.get_preprocessed_seq_data(raw, "pedestrian")
    except trackeval.utils.TrackEvalException as error:
        raise SourceError(f"{sequence.name}: cannot be scored: {' '.join(str(error).split())}") from None
    return raw, data, dataset


def _results_of(sequence: MotSequence, folder: Path) -> Path:
    """The folder that holds `SEQ.txt`: the one given, or `data` in it."""
    for place in (folder, folder / "data"):
        if (place / f"{sequence.name}.txt").is_file():
            return place
    raise SourceError(f"{folder / sequence.name}.txt: no such file; expected the results of {sequence.name}")


def combine(computed: Mapping[str, Raw]) -> Scores:
    """The scores of several sequences as if they were one."""
    return _scores(
        {
            family: metric.combine_sequences({name: raw[family] for name, raw in computed.items()})
            for family, metric in _metrics().items()
        }
    )


def trackeval_version() -> str:
    """The version of TrackEval."""
    from importlib.metadata import version

    return version("trackeval")


def require_trackeval() -> Any:
    """Import and return the package.

    Raises:
        ConfigError: it is not installed.
    """
    with extra("eval", "scoring needs TrackEval"):
        import trackeval
    return trackeval


def _metrics() -> dict[str, Any]:
    metrics, quiet = require_trackeval().metrics, {"PRINT_CONFIG": False, "THRESHOLD": MATCH_IOU}
    return {"HOTA": metrics.HOTA(), "CLEAR": metrics.CLEAR(quiet), "Identity": metrics.Identity(quiet)}


def _benchmark(sequence: MotSequence) -> str:
    """The benchmark whose rules apply. Since 2016 the ground truth has nine columns, and some classes do not count."""
    try:
        with sequence.ground_truth.open(encoding="utf-8-sig") as file:
            columns = len(file.readline().split(","))
    except (OSError, UnicodeDecodeError):
        raise SourceError(f"{sequence.ground_truth}: cannot be read") from None
    if columns != 9:
        return "MOT15"
    return "MOT20" if sequence.name.startswith("MOT20") else "MOT17"


def _scores(raw: Raw) -> Scores:
    hota, clear, identity = raw["HOTA"], raw["CLEAR"], raw["Identity"]
    curves = {name: [round(100 * float(value), 3) for value in hota[name]] for name in CURVES}
    values: dict[str, float] = {name: 100 * float(np.mean(hota[name])) for name in CURVES}
    values |= {"IDF1": 100 * float(identity["IDF1"]), "MOTA": 100 * float(clear["MOTA"])}
    values = {name: round(value, 3) for name, value in values.items()}
    fields = {"FP": "CLR_FP", "FN": "CLR_FN"}
    values |= {name: int(clear[fields.get(name, name)]) for name in METRICS if name in COUNTS}
    return Scores(values, curves)


def _kept_identities(raw: dict[str, Any], dataset: Any) -> np.ndarray:
    """The ground truth's own numbers of the scored identities, in the order of TrackEval's numbers."""
    kept: set[int] = set()
    for ids, classes, extras in zip(raw["gt_ids"], raw["gt_classes"], raw["gt_extras"], strict=True):
        scored = extras["zero_marked"] != 0
        if dataset.benchmark != "MOT15":
            scored &= classes == dataset.class_name_to_class_id["pedestrian"]
        kept.update(ids[scored].tolist())
    return np.array(sorted(kept), np.int64)


def _timeline(data: dict[str, Any], identities: np.ndarray) -> Timeline:
    """CLEAR's matching: tracks that covered an identity in the previous frame come first, then the best overlap."""
    from scipy.optimize import linear_sum_assignment

    eps = np.finfo(float).eps
    tracks = np.full((len(identities), data["num_timesteps"]), ABSENT, np.int64)
    just, last = np.full(len(identities), ABSENT), np.full(len(identities), ABSENT)
    switches = []
    frames = zip(data["gt_ids"], data["tracker_confidences"], data["similarity_scores"], strict=True)
    for t, (gt, found, overlap) in enumerate(frames):
        tracks[gt, t] = MISSED
        if len(gt) == 0 or len(found) == 0:
            continue
        score = np.where(overlap >= MATCH_IOU - eps, overlap + 1000 * (found == just[gt][:, None]), 0)
        rows, columns = linear_sum_assignment(-score)
        real = score[rows, columns] > eps
        who, what = gt[rows[real]], found[columns[real]]
        switched = (last[who] != ABSENT) & (last[who] != what)
        for g, after in zip(who[switched], what[switched], strict=True):
            switches.append(Switch(t + 1, int(identities[g]), int(last[g]), int(after)))
        just[:] = ABSENT
        tracks[who, t] = just[who] = last[who] = what
    return Timeline(identities, tracks, switches)


# ---- the command ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """The subject of an evaluation: a configuration, or existing results.

    Attributes:
        name: its name in tables and plots.
        config: None for existing results.
        results: the folder of the results, existing or to be written.
    """

    name: str
    config: Config | None
    results: Path

    def evaluate(self, sequences: Sequence[MotSequence], build: bool = True) -> Evaluation:
        """Run the configuration, if there is one, and score the results.

        Raises:
            EdgeTrackerError: see `run_config` and `score_results`.
        """
        if self.config is not None:
            run_config(self.config, sequences, self.results, build)
        return score_results(sequences, self.results, self.name)


def open_subject(path: str | Path, overrides: Sequence[str], sequences: Sequence[MotSequence], output: Path) -> Subject:
    """Check that a configuration can run on all sequences, or that a folder of results exists.

    Args:
        path: a YAML file, or a folder.
        overrides: `section.key=value` each, for a configuration.
        output: the folder for the results of a configuration.

    Raises:
        ConfigError, SourceError: the configuration cannot run, or the folder does not exist.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if overrides:
            raise ConfigError(f"{path}: is a folder of results, so no key can be set ({overrides[0]})")
        for sequence in sequences:
            _results_of(sequence, path.absolute())
        return Subject(path.absolute().name, None, path)
    # Frames come from the sequences, so that a configuration without a source is fine here.
    config = load_config(path, overrides, source=str(sequences[0].folder))
    for sequence in sequences:
        config_for(config, sequence, None)
    return Subject(", ".join([path.name, *overrides]), config, output)


# ---- output --------------------------------------------------------------------------------------------------------


def table(evaluation: Evaluation) -> str:
    """The scores as text: a line for each sequence and one overall."""
    rows: list[tuple[str, ...]] = [("", *METRICS)]
    for name, scores in evaluation.rows().items():
        rows.append((name, *(_number(scores[metric], metric) for metric in METRICS)))
    return aligned(rows)


def comparison(first: Evaluation, second: Evaluation) -> str:
    """Two evaluations of the same sequences side by side, and the first minus the second."""
    rows: list[tuple[str, ...]] = [("", *(cell for metric in COMPARED for cell in (metric, "other", "+-")))]
    others = second.rows()
    for name, scores in first.rows().items():
        cells = [name]
        for metric in COMPARED:
            own, other = scores[metric], others[name][metric]
            sign = "" if round(own - other, 1) == 0 else "+" if own > other else "-"
            cells += [_number(own, metric), _number(other, metric), sign + _number(abs(own - other), metric)]
        rows.append(tuple(cells))
    return aligned(rows)


def write_json(path: Path, folder: str, evaluations: Sequence[Evaluation]) -> Path:
    """Write the scores, and return the file's path.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(as_json(folder, evaluations), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def as_json(folder: str, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """The content of the `--json` file; docs/evaluation.md describes it."""
    return {
        "schema": 1,
        "trackeval": trackeval_version(),
        "folder": folder,
        "alphas": [round(float(alpha), 2) for alpha in ALPHAS],
        "evaluations": [
            {
                "name": evaluation.name,
                "overall": {**evaluation.overall.values, "curves": evaluation.overall.curves},
                "sequences": {
                    name: {
                        **result.scores.values,
                        "curves": result.scores.curves,
                        "switches": [switch._asdict() for switch in result.timeline.switches],
                    }
                    for name, result in evaluation.sequences.items()
                },
            }
            for evaluation in evaluations
        ],
    }


def _number(value: float, metric: str) -> str:
    return f"{value:.0f}" if metric in COUNTS else f"{value:.1f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text, the first column aligned left and the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
