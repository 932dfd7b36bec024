"""`edge-tracker tune`: searches for the tracker's parameters on sequences with ground truth, and judges them on others.

Detections and features of each sequence are recorded once; each trial replays them. For each sequence there is a study
that does not see it, and whose best settings are scored on it. So the report shows what tuning gains on sequences like
these, not how well it can fit them. One more study sees all sequences, and gives the settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from edge_tracker.app.config.schema import Config, EdgeConfig, TrackerConfig
from edge_tracker.app.evaluation.evaluation import (
    MotSequence,
    Raw,
    Scores,
    aligned,
    combine,
    compute,
    config_for,
    run_config,
)
from edge_tracker.app.extras import extra
from edge_tracker.app.outputs.sinks import MotSink
from edge_tracker.app.replay.replaying import Recording, Replay
from edge_tracker.app.replay.writing import write_tracks
from edge_tracker.errors import ConfigError, OutputError
from edge_tracker.files import atomic_path

log = logging.getLogger(__name__)

ALL = "all/"  # not the name of a folder
LOG_EVERY_S = 10.0
STORAGE = "trials.db"
# A parameter of `edge` is searched from its value divided by this to its value times this.
SPREAD = 2.0
DIGITS = 3  # of a value that was searched

Values = dict[str, Any]


class _Range(NamedTuple):
    """The range in which a parameter of `deepsort` is searched; widened to the given value."""

    low: float
    high: float
    log: bool = False


DEEPSORT: dict[str, _Range] = {
    "max_iou_distance": _Range(0.4, 0.95),
    "max_age": _Range(5, 200, log=True),
    "n_init": _Range(1, 6),
    "max_cosine_distance": _Range(0.05, 0.6),
    "nn_budget": _Range(10, 300, log=True),
}


def require_optuna() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    with extra("tune", "tuning needs Optuna"):
        import optuna
    return optuna


# ---- parameters ------------------------------------------------------------------------------------------------------


def given_values(tracker: TrackerConfig) -> Values:
    """The parameters that are searched, with their given values. A value of 0 or null means off, and stays so."""
    if tracker.method == "edge":
        values = (tracker.edge or EdgeConfig()).model_dump()
    else:
        values = {name: getattr(tracker, name) for name in DEEPSORT}
    return {name: value for name, value in values.items() if value}


def suggested(trial: Any, given: Values, method: str) -> Values:
    """A trial's values, one for each given value."""
    values: Values = {}
    for name, value in given.items():
        if method == "edge":
            values[name] = trial.suggest_float(name, value / SPREAD, value * SPREAD, log=True)
        elif isinstance(value, int):
            low, high, log_scale = DEEPSORT[name]
            values[name] = trial.suggest_int(name, int(min(low, value)), int(max(high, value)), log=log_scale)
        else:
            low, high, log_scale = DEEPSORT[name]
            values[name] = trial.suggest_float(name, min(low, value), max(high, value), log=log_scale)
    return _as_tried(values, given)


def _as_tried(values: Values, given: Values) -> Values:
    """The values as used and shown: rounded to a few digits, but given values unchanged."""
    return {
        name: value if isinstance(value, int) or value == given[name] else float(f"{value:.{DIGITS}g}")
        for name, value in values.items()
    }


def with_values(tracker: TrackerConfig, values: Values) -> TrackerConfig:
    """The section with other values of the searched parameters."""
    if tracker.method == "edge":
        return tracker.model_copy(update={"edge": (tracker.edge or EdgeConfig()).model_copy(update=values)})
    return tracker.model_copy(update=values)


def as_yaml(tracker: TrackerConfig, values: Values) -> str:
    """The section for a configuration: the method, the searched parameters, and others that are not the default."""
    section = with_values(tracker, values)
    changed = section.model_dump(exclude_defaults=True, exclude={"edge"})
    shown = {"method": tracker.method, **{name: value for name, value in changed.items() if name not in values}}
    if tracker.method == "edge":
        off = (tracker.edge or EdgeConfig()).model_dump(exclude_defaults=True, exclude=set(values))
        shown["edge"] = {**values, **off}
    else:
        shown |= values
    return yaml.safe_dump({"tracker": shown}, sort_keys=False)


# ---- recording and replaying -----------------------------------------------------------------------------------------


def record(config: Config, sequences: Iterable[MotSequence], folder: Path, build: bool = True) -> dict[str, Recording]:
    """Record the tracker's inputs in each sequence into `folder/SEQ`, unless they are there already.

    Raises:
        EdgeTrackerError: see `run_config`; or the folder cannot be written.
        KeyboardInterrupt: a signal ended it; sequences that are complete are kept.
    """
    # Every detection is embedded, since each trial requests other features.
    every = TrackerConfig(method="edge", selective=False, nms_max_overlap=config.tracker.nms_max_overlap)
    config = config.model_copy(update={"tracker": every})
    recordings = {}
    for sequence in sequences:
        place, note = folder / sequence.name, folder / f"{sequence.name}.json"
        made_of = _made_of(config, sequence)
        with suppress(OSError, ValueError):
            if json.loads(note.read_text(encoding="utf-8")) == made_of:
                recordings[sequence.name] = Recording(place)
                continue
        with TemporaryDirectory(prefix="edge-tracker-") as results:
            run_config(config, [sequence], Path(results), build, record=folder)
        try:
            with atomic_path(note) as partial:
                partial.write_text(json.dumps(made_of), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{note}: cannot be written: {error.strerror}") from None
        recordings[sequence.name] = Recording(place)
    return recordings


def _made_of(config: Config, sequence: MotSequence) -> dict[str, Any]:
    """Everything that a recording depends on: the sections, and the sequence's files."""
    own = config_for(config, sequence, None)
    files = [path for path in (sequence.detections, sequence.images) if path is not None and path.exists()]
    return {
        "detector": own.detector.model_dump(mode="json"),
        "embedder": own.embedder.model_dump(mode="json"),
        "tracker": own.tracker.model_dump(mode="json"),
        "length": sequence.length,
        "fps": sequence.fps,
        "files": {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in files},
    }


class Scorer:
    """Scores settings on recorded sequences.

    Args:
        sequences: the sequences.
        recordings: their recordings, by name.
    """

    def __init__(self, sequences: Sequence[MotSequence], recordings: Mapping[str, Recording]) -> None:
        self._sequences = {sequence.name: sequence for sequence in sequences}
        self._recordings = recordings

    def raw(self, name: str, tracker: TrackerConfig) -> Raw:
        """TrackEval's result for one sequence."""
        with TemporaryDirectory(prefix="edge-tracker-") as folder:
            sink = MotSink(Path(folder, f"{name}.txt"))
            try:
                for frame, tracks in Replay(self._recordings[name], _overrides(tracker)):
                    write_tracks([sink], frame, tracks)
            finally:
                sink.close()
            return compute(self._sequences[name], Path(folder))

    def objective(self, names: Sequence[str], tracker: TrackerConfig) -> float:
        """The mean over sequences of (HOTA + IDF1) / 2, percent. All sequences count equally, whatever their length."""
        return sum(worth(combine({name: self.raw(name, tracker)})) for name in names) / len(names)


def worth(scores: Scores) -> float:
    """The objective of the search: (HOTA + IDF1) / 2, percent."""
    return (scores["HOTA"] + scores["IDF1"]) / 2


def _overrides(tracker: TrackerConfig) -> list[str]:
    """The section in the form of `--set` arguments."""
    section = tracker.model_dump()
    return [
        # In brackets, since YAML ends a document of a single bare value with a line of dots.
        f"tracker.{name}={yaml.safe_dump([value], default_flow_style=True, width=1_000_000).strip()[1:-1]}"
        for name, value in section.items()
    ]


# ---- searching -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """A held-out sequence: its scores with the given settings, and with those found on the others."""

    name: str
    values: Values
    given: Raw
    tuned: Raw


@dataclass(frozen=True)
class Tuning:
    """The result of a search.

    Attributes:
        tracker: the given section.
        folds: one for each sequence.
        values: the best values over all sequences.
        objective, given_objective: the objective of these values, and of the given settings, over all sequences.
        trials: number of trials in each study.
    """

    tracker: TrackerConfig
    folds: list[Fold]
    values: Values
    objective: float
    given_objective: float
    trials: int

    def held_out(self) -> tuple[Scores, Scores]:
        """The scores over all sequences, each held out by its study: with the given settings, and tuned."""
        return (
            combine({fold.name: fold.given for fold in self.folds}),
            combine({fold.name: fold.tuned for fold in self.folds}),
        )


def tune(config: Config, sequences: Sequence[MotSequence], output: Path, trials: int, build: bool = True) -> Tuning:
    """Search, continuing from the trials in `output`.

    Args:
        config: a valid configuration; `tracker` gives the method, and the settings to start from and compare with.
        sequences: at least two.
        output: folder for recordings and trials.
        trials: number of trials in each study, earlier ones included.
        build: False to refuse, instead of building an engine first.

    Raises:
        ConfigError: a package is missing, there is only one sequence, or `output` belongs to another search.
        EdgeTrackerError: see `record`.
        KeyboardInterrupt: trials that are done are kept.
    """
    optuna = require_optuna()
    if len(sequences) < 2:
        raise ConfigError(
            f"tuning needs two sequences or more, since one is held out to judge by; there is only {sequences[0].name}"
        )
    for sequence in sequences:
        config_for(config, sequence, None)  # report what a sequence lacks before anything is recorded
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be created: {error.strerror}") from None
    names = [sequence.name for sequence in sequences]
    given = given_values(config.tracker)
    studies = _open_studies(optuna, output, config, sequences, given)
    scorer = Scorer(sequences, record(config, sequences, output / "recorded", build))
    left = {name: max(0, trials - _done(optuna, study)) for name, study in studies.items()}
    with _progress(sum(left.values())) as step:
        for name, study in studies.items():
            seen = [other for other in names if other != name]
            for _ in range(left[name]):
                _try(optuna, study, scorer, seen, config.tracker, given)
                step(name)
    best = {name: _as_tried(study.best_params, given) for name, study in studies.items()}
    folds = []
    for name in names:
        was = scorer.raw(name, config.tracker)
        folds.append(Fold(name, best[name], was, scorer.raw(name, with_values(config.tracker, best[name]))))
    return Tuning(
        config.tracker,
        folds,
        best[ALL],
        studies[ALL].best_value,
        sum(worth(combine({fold.name: fold.given})) for fold in folds) / len(folds),
        trials,
    )


def _open_studies(
    optuna: Any, output: Path, config: Config, sequences: Sequence[MotSequence], given: Values
) -> dict[str, Any]:
    """A study for each held-out sequence, by its name, and one over all."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts = [_made_of(config, sequence) for sequence in sequences]
    of = hashlib.sha256(json.dumps([parts, given], sort_keys=True).encode()).hexdigest()
    studies = {}
    for name in (*(sequence.name for sequence in sequences), ALL):
        try:
            study = optuna.create_study(
                storage=f"sqlite:///{(output / STORAGE).absolute()}",
                study_name=_named(name),
                direction="maximize",
                load_if_exists=True,
            )
        except Exception as error:  # SQLAlchemy's, of many kinds
            text = " ".join(str(error).split("\n")[0].split())
            raise OutputError(f"{output / STORAGE}: cannot be used ({text}); give another folder: --output") from None
        if study.user_attrs.setdefault("of", of) != of:
            raise ConfigError(
                f"--output: {output}: holds a search with other sequences, settings, detector or embedder;"
                " give another folder, or remove this one"
            )
        study.set_user_attr("of", of)
        # Each call continues with other random draws than those before it.
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), multivariate=True)
        state = optuna.trial.TrialState
        if not study.get_trials(deepcopy=False, states=(state.COMPLETE, state.WAITING)):
            study.enqueue_trial(given)
        studies[name] = study
    return studies


def _named(name: str) -> str:
    return "all sequences" if name == ALL else f"without {name}"


def _done(optuna: Any, study: Any) -> int:
    return len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)))


def _try(optuna: Any, study: Any, scorer: Scorer, seen: Sequence[str], tracker: TrackerConfig, given: Values) -> None:
    trial = study.ask()
    try:
        study.tell(trial, scorer.objective(seen, with_values(tracker, suggested(trial, given, tracker.method))))
    except BaseException:
        with suppress(Exception):  # the error that ended it matters, not that it cannot be noted
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Progress of the trials: on a terminal a bar with the time left, elsewhere lines in the log."""
    if sys.stderr.isatty():
        from tqdm.contrib.logging import logging_redirect_tqdm

        with tqdm(total=total, unit=" trials", dynamic_ncols=True) as bar, logging_redirect_tqdm():

            def advance(name: str) -> None:
                bar.set_postfix_str(_named(name), refresh=False)
                bar.update()

            yield advance
        return
    began = said = time.monotonic()
    done = 0

    def note(name: str) -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= LOG_EVERY_S:
            said = time.monotonic()
            left = (said - began) / done * (total - done)
            log.info("%d of %d trials, about %s left", done, total, tqdm.format_interval(left))

    yield note


# ---- output ----------------------------------------------------------------------------------------------------------


def report(tuning: Tuning) -> str:
    """The table of held-out scores, the verdict, and the settings as YAML."""
    shown = ("HOTA", "IDF1")
    rows: list[tuple[str, ...]] = [("left out", *(cell for metric in shown for cell in (metric, "tuned", "+-")))]
    pairs = {fold.name: (combine({fold.name: fold.given}), combine({fold.name: fold.tuned})) for fold in tuning.folds}
    together = tuning.held_out()
    for name, (before, after) in {**pairs, "together": together}.items():
        cells = [name]
        for metric in shown:
            was, now = before[metric], after[metric]
            cells += [f"{was:.1f}", f"{now:.1f}", f"{now - was:+.1f}"]
        rows.append(tuple(cells))
    gain = worth(together[1]) - worth(together[0])
    better = sum(worth(after) > worth(before) for before, after in pairs.values())
    counted = (
        f"better on {better} of the {len(pairs)} sequences, each unseen by its search, and {gain:+.1f} together"
        " (mean of HOTA and IDF1)"
    )
    found = (
        f"Over all sequences, which this search saw: {tuning.given_objective:.1f} as given, {tuning.objective:.1f} with"
    )
    if tuning.objective <= tuning.given_objective:
        verdict = (
            f"None of the {tuning.trials} trials over all sequences was better than the given settings: keep them."
        )
    elif gain > 0 and 2 * better > len(pairs):
        verdict = f"Tuning helped: {counted}."
    else:
        verdict = f"Tuning did not help: {counted}. Keep the given settings."
    return "\n".join([aligned(rows), "", verdict, "", found, "", as_yaml(tuning.tracker, tuning.values).rstrip()])
