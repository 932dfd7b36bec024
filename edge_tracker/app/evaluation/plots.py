"""Plots of an evaluation: HOTA over its thresholds, and timelines of identities. Needs matplotlib."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_tracker.app.evaluation.evaluation import ABSENT, ALPHAS, CURVES, MISSED, Evaluation, Timeline
from edge_tracker.app.extras import extra
from edge_tracker.app.outputs.annotate import color_of
from edge_tracker.errors import OutputError
from edge_tracker.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
ROW_INCHES = 0.2
CHARACTER_INCHES = 0.07
LEAST_INCHES, MOST_INCHES = 14.0, 48.0
FRAME_INCHES = 0.03  # enough for two switches in neighbouring frames to be told apart
NOT_FOUND = "#c8c8c8"


def draw_all(evaluations: Sequence[Evaluation], folder: Path) -> list[Path]:
    """Write `hota.png`, and `timeline-SEQ.png` for each sequence; those of a second evaluation end in `-other`.

    Raises:
        ConfigError: matplotlib is not installed.
        OutputError: a file cannot be written.
    """
    figures = {"hota.png": hota_figure(evaluations)}
    for evaluation, suffix in zip(evaluations, ("", "-other"), strict=False):
        for name, result in evaluation.sequences.items():
            title = f"{name}, {evaluation.name}"
            figures[f"timeline-{name}{suffix}.png"] = timeline_figure(result.timeline, title)
    for name, figure in figures.items():
        try:
            with atomic_path(folder / name) as partial:
                figure.savefig(partial, dpi=DPI)
        except OSError as error:
            raise OutputError(f"{folder / name}: cannot be written: {error.strerror}") from None
    return [folder / name for name in figures]


def hota_figure(evaluations: Sequence[Evaluation]) -> Figure:
    """HOTA overall and of each sequence, and its parts, over the overlap threshold."""
    figure = _figure(12, 5)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for number, evaluation in enumerate(evaluations):
        style = "-" if number == 0 else "--"
        of = ", other" if number else ""
        for k, (name, scores) in enumerate(evaluation.rows().items()):
            overall = name == "overall"
            color, width = ("black", 2.5) if overall else (f"C{k % 10}", 1.2)
            label = f"{name} {scores['HOTA']:.1f}{of}"
            if number == 0 or overall:
                left.plot(ALPHAS, scores.curves["HOTA"], style, color=color, linewidth=width, label=label)
        for k, curve in enumerate(CURVES):
            label = f"{curve} {evaluation.overall[curve]:.1f}{of}"
            color = "black" if curve == "HOTA" else f"C{k - 1}"
            right.plot(ALPHAS, evaluation.overall.curves[curve], style, color=color, label=label)
    # With --set, names are long: in a legend they would leave no room for the curves.
    names = " (solid)\n".join(evaluation.name for evaluation in evaluations)
    figure.suptitle(names + (" (other, dashed)" if len(evaluations) > 1 else ""), fontsize=8, wrap=True)
    left.set(title="HOTA by sequence", ylabel="percent", xlim=(0, 1), ylim=(0, 100))
    right.set(title="overall: HOTA, detection, association")
    for axes in (left, right):
        axes.set_xlabel("overlap (IoU) that counts as found")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper right" if axes is right else "lower left")
    return figure


def timeline_figure(timeline: Timeline, title: str) -> Figure:
    """A row for each identity, coloured by the track that covers it, grey if none does, with a mark at every switch."""
    order = [int(k) for k in np.argsort([_first_frame(row) for row in timeline.tracks], kind="stable")]
    length = timeline.tracks.shape[1]
    width = min(MOST_INCHES, max(LEAST_INCHES, FRAME_INCHES * length))
    figure = _figure(width, min(MOST_INCHES, 1.4 + ROW_INCHES * max(3, len(order))))
    axes = figure.subplots()
    inches_per_frame = (width - 1) / max(1, length)
    for place, k in enumerate(order):
        runs = [run for run in _runs(timeline.tracks[k]) if run[2] != ABSENT]
        missed = [(start + 0.5, end - start) for start, end, track in runs if track == MISSED]
        covered = [(start, end, track, _rgb(track)) for start, end, track in runs if track != MISSED]
        axes.broken_barh(missed, (place - 0.125, 0.25), facecolors=NOT_FOUND)
        axes.broken_barh(
            [(start + 0.5, end - start) for start, end, _, _ in covered],
            (place - 0.4, 0.8),
            facecolors=[color for _, _, _, color in covered],
        )
        for start, end, track, color in covered:
            if (end - start) * inches_per_frame > CHARACTER_INCHES * (len(str(track)) + 1):
                ink = "black" if np.dot(color, (0.299, 0.587, 0.114)) > 0.43 else "white"
                axes.text((start + end + 1) / 2, place, str(track), ha="center", va="center", fontsize=7, color=ink)
    place_of = {int(timeline.identities[k]): place for place, k in enumerate(order)}
    x = [switch.frame - 0.5 for switch in timeline.switches]
    y = np.array([place_of[switch.identity] for switch in timeline.switches], float)
    axes.vlines(x, y - 0.5, y + 0.5, color="black", linewidth=1.2)
    axes.scatter(x, y - 0.5, marker="v", s=22, color="black", zorder=3, clip_on=False)
    axes.set_yticks(range(len(order)), [str(timeline.identities[k]) for k in order], fontsize=7)
    count = Counter(switch.identity for switch in timeline.switches)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(order)), [str(count[int(timeline.identities[k])]) for k in order], fontsize=7)
    right.set_ylabel("switches")
    axes.set(xlim=(0.5, length + 0.5), ylim=(max(1, len(order)) - 0.4, -0.9), xlabel="frame", ylabel="identity")
    axes.set_title(
        f"{title}: {len(timeline.switches)} identity switches (black marks); colour and number: track, grey: not found",
        fontsize=9,
    )
    return figure


def require_matplotlib() -> type[Figure]:
    """Import matplotlib.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    with extra("eval", "plots need matplotlib"):
        from matplotlib.figure import Figure
    return Figure


def _figure(width: float, height: float) -> Figure:
    # Without pyplot: such a figure draws on the Agg canvas, which needs no display.
    return require_matplotlib()(figsize=(width, height), layout="constrained")


def _rgb(track: int) -> tuple[float, float, float]:
    blue, green, red = color_of(track)
    return red / 255, green / 255, blue / 255


def _first_frame(row: np.ndarray) -> int:
    return int(np.argmax(row != ABSENT))


def _runs(row: np.ndarray) -> list[tuple[int, int, int]]:
    """Start, end and value of each stretch of equal values."""
    edges = np.flatnonzero(np.diff(row)) + 1
    bounds = [0, *edges.tolist(), len(row)]
    return [(start, end, int(row[start])) for start, end in pairwise(bounds)]
