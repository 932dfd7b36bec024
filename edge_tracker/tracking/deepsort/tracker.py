"""DeepSORT, exactly as deep-sort-realtime runs it (Wojke, Bewley and Paulus, 2017, arXiv 1703.07402)."""

from __future__ import annotations

from typing import NamedTuple

from edge_tracker.tracking.arrays import Ints, as_record
from edge_tracker.tracking.deepsort import phases
from edge_tracker.tracking.deepsort.association import match_by_appearance, match_by_iou
from edge_tracker.tracking.deepsort.settings import DeepSortParameters
from edge_tracker.tracking.deepsort.tables import DeepSortTable
from edge_tracker.tracking.detections import Given, Scene, sort_by_x
from edge_tracker.tracking.method import Embeds, Method
from edge_tracker.tracking.parameters import Common, check


class Settings(NamedTuple):
    """The parameters as compiled functions take them; `budget` is 0 for no limit."""

    max_iou_distance: float
    max_age: float
    n_init: int
    max_cosine_distance: float
    budget: int
    gating_only_position: bool
    class_aware: bool


class DeepSortTracker(Method):
    """DeepSORT over a `DeepSortTable`.

    Args:
        parameters, common: see there.

    Raises:
        InputError: an argument that is out of range, by name.
    """

    table: DeepSortTable
    settings: Settings

    def __init__(self, parameters: DeepSortParameters | None = None, common: Common | None = None) -> None:
        p, common = parameters or DeepSortParameters(), common or Common()
        check("max_iou_distance", p.max_iou_distance, 0)
        check("max_age", p.max_age, 0)
        check("n_init", p.n_init, 1, whole=True)
        check("max_cosine_distance", p.max_cosine_distance, 0)
        if p.nn_budget is not None:
            check("nn_budget", p.nn_budget, 1, whole=True)
        self.settings = Settings(
            max_iou_distance=float(p.max_iou_distance),
            max_age=float(p.max_age),
            n_init=int(p.n_init),
            max_cosine_distance=float(p.max_cosine_distance),
            budget=int(p.nn_budget or 0),
            gating_only_position=bool(p.gating_only_position),
            class_aware=bool(common.class_aware),
        )
        self.compiled = as_record(self.settings._asdict())
        self.n_init, self.max_age, self.budget = self.settings.n_init, self.settings.max_age, self.settings.budget
        super().__init__(common, whole_pixels=True)

    def new_table(self) -> DeepSortTable:
        return DeepSortTable()

    def step(self, given: Given, dt: float, embeds: Embeds | None = None) -> Ints:
        scene = self.prepare(given, embeds)
        step = phases.step if len(scene.features) else phases.step_by_motion
        return step(self.table.tables, scene, dt, self.compiled)

    def predict(self, dt: float) -> None:
        phases.predict(self.table.tables, dt, self.compiled)

    def match(self, scene: Scene, dt: float, embeds: Embeds | None = None) -> None:
        tables = self.table.tables
        sort_by_x(scene.detections)
        if len(scene.features):
            match_by_appearance(tables, scene, self.compiled)
        match_by_iou(tables, scene, dt, self.compiled)

    def update(self, scene: Scene, dt: float) -> None:
        phases.update(self.table.tables, scene, self.compiled)

    def finish(self, scene: Scene) -> Ints:
        return phases.finish(self.table.tables, scene, self.compiled)
