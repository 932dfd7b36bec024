"""`method="edge"`; docs/edge-method.md describes it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edge_tracker.tracking.arrays import Floats, Ints, as_record
from edge_tracker.tracking.detections import Given, Scene, measure
from edge_tracker.tracking.edge import phases
from edge_tracker.tracking.edge.crossings import BUDGET
from edge_tracker.tracking.edge.motion import match_by_motion
from edge_tracker.tracking.edge.requests import NOT_WANTED, wanted_crops
from edge_tracker.tracking.edge.settings import EdgeParameters, EdgeSettings
from edge_tracker.tracking.edge.tables import EDGE_DETECTION, EdgeTable
from edge_tracker.tracking.method import Embeds, Method
from edge_tracker.tracking.parameters import Common, check


class EdgeTracker(Method):
    """`method="edge"` over an `EdgeTable`.

    Args:
        parameters, common: see there.

    Attributes:
        settings: the parameters, in frames; compiled: the same, for compiled functions.

    Raises:
        InputError: an argument that is out of range, by name.
    """

    DETECTION: ClassVar[np.dtype] = EDGE_DETECTION

    table: EdgeTable
    settings: EdgeSettings

    def __init__(self, parameters: EdgeParameters | None = None, common: Common | None = None) -> None:
        p, common = parameters or EdgeParameters(), common or Common()
        check("frame_rate", p.frame_rate, 1e-3, 1e6)
        if p.max_embeddings is not None:
            check("max_embeddings", p.max_embeddings, 0, whole=True)
        self.settings = (p.edge_settings or EdgeSettings()).in_frames(float(p.frame_rate))
        self.compiled = as_record({**self.settings._asdict(), "class_aware": bool(common.class_aware)})
        self._max_embeddings, self._selective = p.max_embeddings, bool(p.selective)
        self.n_init, self.budget = phases.HITS, int(BUDGET)
        self.max_age = float(int(max(self.settings.memory, self.settings.reenter_age)))
        super().__init__(common, whole_pixels=False)

    def new_table(self) -> EdgeTable:
        return EdgeTable(self.compiled)

    def step(self, given: Given, dt: float, embeds: Embeds | None = None) -> Ints:
        scene = self.prepare(given, embeds)
        if embeds is None or not self._selective:
            phases.open_frame(self.table.tables, scene.detections, dt, self.compiled)
        else:
            self._open_and_ask(scene, dt, embeds)
        return phases.close_frame(self.table.tables, scene, dt, self.compiled)

    def _open_and_ask(self, scene: Scene, dt: float, embeds: Embeds) -> None:
        """The phases up to the matching by motion, and the embedder's; if that fails, nothing is changed."""
        live, statistics = self.table.live, self.table.tables.statistics
        before = live.copy(), statistics.copy()
        try:
            phases.open_frame(self.table.tables, scene.detections, dt, self.compiled)
            self._ask(scene, dt, embeds)
        except BaseException:
            live[:], statistics[:] = before
            raise

    def _embedded(self, scene: Scene, m: int, embeds: Embeds) -> Scene:
        if not self._selective:
            return super()._embedded(scene, m, embeds)
        return Scene(scene.detections, np.zeros((m, embeds.dimension), dtype=np.float32))

    def reserve(self, detections: int, features: Floats) -> None:
        super().reserve(detections, features)
        if features.shape[1] > 0:
            self.table.statistics["seen"] = 1.0
            # A frame adds each feature once, and may begin a block for each queue that moves into its gallery.
            self.table.reserve_features(2 * detections + len(self.table), features.shape[1])

    def predict(self, dt: float) -> None:
        phases.predict(self.table.tables, dt, self.compiled)

    def match(self, scene: Scene, dt: float, embeds: Embeds | None = None) -> None:
        self.match_by_motion(scene, dt)
        if embeds is not None and self._selective:
            self._ask(scene, dt, embeds)
        if self.table.appearance:
            self.match_by_appearance(scene)

    def match_by_motion(self, scene: Scene, dt: float) -> None:
        """Match the predicted tracks to the detections by motion alone."""
        self.table.dt = dt
        phases.measure_detections(scene.detections, self.table.appearance, self.compiled)
        match_by_motion(self.table.tables, scene.detections, dt, self.compiled)

    def match_by_appearance(self, scene: Scene) -> None:
        """Let lost tracks come back as detections that resemble them; after the matching by motion."""
        phases.match_by_appearance(self.table.tables, scene, self.compiled)

    def wanted(self, scene: Scene, dt: float) -> Ints:
        """Reasons (K,) for which detections are to be embedded after the matching by motion; see `edge.requests`."""
        return wanted_crops(self.table.tables, scene.detections, dt, self.compiled)

    def _ask(self, scene: Scene, dt: float, embeds: Embeds) -> None:
        """Write features of the detections that motion alone does not settle, within the budget, into the scene."""
        wanted = self.wanted(scene, dt)
        chosen = np.flatnonzero(wanted != NOT_WANTED)
        if self._max_embeddings is not None and len(chosen) > self._max_embeddings:
            chosen = chosen[np.argsort(wanted[chosen], kind="stable")[: self._max_embeddings]]
        if not len(chosen):
            return
        places = scene.detections["origin"][np.sort(chosen)]
        scene.features[places] = embeds(places)
        measure(scene.detections, scene.features)
        norm = scene.detections["norm"]
        norm[~np.isfinite(norm)] = 0.0

    def update(self, scene: Scene, dt: float) -> None:
        phases.update(self.table.tables, scene, dt, self.compiled)

    def finish(self, scene: Scene) -> Ints:
        return phases.finish(self.table.tables, scene, self.compiled)
