"""A tracking method: the phases that every frame goes through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.tracking.arrays import Floats, Ints
from edge_tracker.tracking.detections import BAD_FEATURE, DETECTION, Given, Scene, complain, measure, prepare, suppress
from edge_tracker.tracking.parameters import Common, check
from edge_tracker.tracking.track_table import TrackTable


class Embeds(Protocol):
    """Computes appearance features of the detections of one frame.

    Attributes:
        dimension: D.
    """

    dimension: int

    def __call__(self, places: Ints) -> Floats:
        """Features (K, D) float32 of the detections at these places (K,) in the caller's order."""


class Method(ABC):
    """A method over a `TrackTable`: the detections of a frame in, the table changed.

    A frame goes through `prepare`, `predict`, `match`, `update` and `finish`. `step` takes all tracks through them with
    few calls of compiled functions; where tracks have methods of their own, these take the places of `predict` and
    `update`, and an explanation reads the numbers between the phases.

    Args:
        common: see `Common`.
        whole_pixels: see `detections.suppress`.

    Attributes:
        table: the tracks.
        settings: the parameters of the method, by name.
        class_aware: see `Common`.
        n_init: hits that confirm a track.
        max_age: frames after which every track without a detection has been deleted.
        budget: features a gallery holds; 0 for no limit.

    Raises:
        InputError: an argument that is out of range, by name.
    """

    DETECTION: ClassVar[np.dtype] = DETECTION

    table: TrackTable
    settings: Any
    n_init: int
    max_age: float
    budget: int

    def __init__(self, common: Common, whole_pixels: bool) -> None:
        check("nms_max_overlap", common.nms_max_overlap, 0)
        self._max_overlap, self._whole_pixels = float(common.nms_max_overlap), whole_pixels
        self._drop_invalid = bool(common.drop_invalid)
        self.class_aware = bool(common.class_aware)
        self.table = self.new_table()

    @abstractmethod
    def new_table(self) -> TrackTable:
        """An empty table of the kind that this method works on."""

    def no_features(self) -> Floats:
        """The features (0, D) of a `Given` without any."""
        return self.table.gallery.unit[:0]

    @abstractmethod
    def step(self, given: Given, dt: float, embeds: Embeds | None = None) -> Ints:
        """Run one frame: all phases.

        Args:
            given: the detections.
            dt: frames since the last call.
            embeds: computes the features that are needed, in the place of `given.features`.

        Returns:
            (K,) int64, the former rows of the tracks that ended (see `tables.delete_tracks`).

        Raises:
            InputError: a detection with a NaN or infinite value, by index; features of another length than earlier
                ones. The table is unchanged.
        """

    def prepare(self, given: Given, embeds: Embeds | None = None) -> Scene:
        """Check and convert the detections of a frame, and make room for what it can add.

        Args:
            given, embeds: as for `step`.

        Raises:
            InputError: as for `step`.
        """
        detections = np.empty(len(given.ltwh), dtype=self.DETECTION)
        k, complaint, blamed = prepare(detections, given, self._drop_invalid)
        if complaint:
            complain(complaint, blamed)
        if self._max_overlap < 1.0 and k > 1:
            k = suppress(detections[:k], self._max_overlap, self._whole_pixels)
        scene = Scene(detections[:k], given.features)
        if embeds is not None:
            scene = self._embedded(scene, len(given.ltwh), embeds)
        self.reserve(len(given.ltwh), scene.features)
        return scene

    def _embedded(self, scene: Scene, m: int, embeds: Embeds) -> Scene:
        """The scene with the features of all its detections; a method that needs fewer asks for them in `match`."""
        detections = scene.detections
        if not len(detections):
            return scene
        features = features_at(detections["origin"], m, embeds)
        measure(detections, features)
        bad = np.flatnonzero(~np.isfinite(detections["norm"]))
        if len(bad) and not self._drop_invalid:
            complain(BAD_FEATURE, int(detections[bad[0]]["origin"]))
        return Scene(np.delete(detections, bad) if len(bad) else detections, features)

    def reserve(self, detections: int, features: Floats) -> None:
        """Make room for so many detections, and for their features (M, D) or (0, D).

        Raises:
            InputError: features of another length than the tracks have.
        """
        if len(features):
            length = features.shape[1]
            if length != self.table.gallery.unit.shape[1] and (held := self.table.dimension) != 0:
                raise InputError(
                    f"features have {length} values, those of earlier frames {held}: "
                    "use one embedder, or delete_all_tracks() before changing it"
                )
            self.table.reserve_features(detections, length)
        self.table.reserve(detections)

    @abstractmethod
    def predict(self, dt: float) -> None:
        """Move all tracks ahead by `dt` frames."""

    @abstractmethod
    def match(self, scene: Scene, dt: float, embeds: Embeds | None = None) -> None:
        """Match the predicted tracks to the detections: field `match` of the tracks.

        Features that are needed only now are asked for and written into the scene.
        """

    @abstractmethod
    def update(self, scene: Scene, dt: float) -> None:
        """Correct the tracks that were matched; note that the others were missed, and which of them have ended."""

    @abstractmethod
    def finish(self, scene: Scene) -> Ints:
        """Delete the tracks that have ended, and start new ones.

        Returns:
            (K,) int64, the former rows of the tracks that ended.
        """


def features_at(places: Ints, m: int, embeds: Embeds) -> Floats:
    """Features (M, D) float32 of a frame's detections: computed at these places (K,), zero elsewhere."""
    features = np.zeros((m, embeds.dimension), dtype=np.float32)
    if len(places):
        features[places] = embeds(places)
    return features
