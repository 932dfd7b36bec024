"""Track and TrackState: one tracked object as callers see it."""

from __future__ import annotations

from collections.abc import Hashable
from enum import IntEnum
from typing import Any

import numpy as np

from edge_tracker.tracking.deepsort import kalman
from edge_tracker.tracking.deepsort.kalman import KalmanFilter
from edge_tracker.tracking.deepsort.tables import DeepSortTable
from edge_tracker.tracking.tables import CONFIRMED, DELETED, NO_CLASS, NO_DETECTION, TENTATIVE, whole
from edge_tracker.tracking.track_table import TrackTable

MOST = 2**63 - 1  # that a class number can be


class TrackState(IntEnum):
    """The stage of a track: tentative until `n_init` hits, then confirmed, and deleted at its end."""

    Tentative = TENTATIVE
    Confirmed = CONFIRMED
    Deleted = DELETED


class ClassNames:
    """Numbers for the classes of detections, which may be any hashable objects.

    A class that is a whole number from 0 up is its own number; None is NO_CLASS; all others count down from -2, and
    stand in `objects` in that order.
    """

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {None: NO_CLASS}
        self.objects: list[Any] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def number(self, det_class: Hashable) -> int:
        """The number of a class, given now if it has none yet.

        Raises:
            TypeError: the class is not hashable.
        """
        number = self.numbers.get(det_class)
        if number is None:
            if type(det_class) is int and 0 <= det_class <= MOST:
                number = det_class
            else:
                self.objects.append(det_class)
                number = NO_CLASS - len(self.objects)
            self.numbers[det_class] = number
        return number

    def name(self, number: int) -> Any:
        """The class that a number stands for."""
        if number >= 0:
            return number
        return None if number == NO_CLASS else self.objects[NO_CLASS - 1 - number]


class Detection:
    """A detection as `Track.update` gets it.

    Attributes:
        ltwh: (4,) float32, pixels.
        confidence: float, or None.
        feature: (D,) float32, or None.
        class_name, instance_mask, others: as given to `update_tracks`.
        index: place among the detections given to `update_tracks`.
    """

    def __init__(
        self,
        ltwh: np.ndarray,
        confidence: float | None,
        feature: np.ndarray | None,
        class_name: Any = None,
        instance_mask: Any = None,
        others: Any = None,
        index: int = 0,
    ) -> None:
        self.ltwh = np.asarray(ltwh, dtype=np.float32)
        self.confidence = confidence
        self.feature = feature
        self.class_name = class_name
        self.instance_mask = instance_mask
        self.others = others
        self.index = index

    def get_ltwh(self) -> np.ndarray:
        """A copy of the box, (4,) float32 ltwh."""
        return self.ltwh.copy()

    def to_tlbr(self) -> np.ndarray:
        """The box as (4,) float32 left, top, right, bottom."""
        return np.concatenate([self.ltwh[:2], self.ltwh[:2] + self.ltwh[2:]])

    def to_xyah(self) -> np.ndarray:
        """The box as (4,) float32 centre x, centre y, width / height, height."""
        left, top, width, height = self.ltwh
        return np.array([left + width / 2, top + height / 2, width / height, height], dtype=np.float32)


class Track:
    """One tracked object: identity, state, box and what its last detection carried.

    A track that the tracker gives out reads its values from the tracker's table. After its deletion it keeps the last
    ones. Constructed directly it stands alone. Subclass it (`override_track_class`) to add state of your own, or to
    override `predict`, `update` and `mark_missed`.

    Args:
        mean: (8,) x, y, a, h and velocities; pixels, frames. With `method="edge"` x, y, w, h.
        covariance: (8, 8), without terms between different coordinates.
        track_id: the identity.
        n_init: hits that confirm the track.
        max_age: frames a confirmed track lives without a detection.
        feature: (D,) appearance feature of the first detection.
        original_ltwh: (4,) its box.
        det_class, det_conf, instance_mask, others: its class, confidence, mask and the caller's object.

    Raises:
        ValueError: the covariance is not (8, 8) or couples coordinates.
    """

    _feature_budget = 1  # a track that stands alone remembers its latest feature
    _alone: TrackTable | None = None  # where the tracker wants it to be constructed

    def __init__(
        self,
        mean: np.ndarray,
        covariance: np.ndarray,
        track_id: str,
        n_init: int,
        max_age: int,
        feature: np.ndarray | None = None,
        original_ltwh: np.ndarray | None = None,
        det_class: Any = None,
        det_conf: float | None = None,
        instance_mask: Any = None,
        others: Any = None,
    ) -> None:
        table = DeepSortTable(capacity=1) if self._alone is None else self._alone
        self._attach(table, 0, track_id, ClassNames(), n_init, max_age)
        self.mean = mean
        self.covariance = covariance
        if original_ltwh is None:
            self._record["class_id"] = self._names.number(det_class)
        else:
            self._see(Detection(original_ltwh, det_conf, feature, det_class, instance_mask, others))
        if feature is not None:
            table.add_feature(0, feature, self._feature_budget)

    def _attach(
        self, table: TrackTable, row: int, track_id: str, names: ClassNames, n_init: int, max_age: float
    ) -> None:
        """Make this object show a row of a table. For the tracker's use."""
        self._move(table, row)
        self.track_id = track_id
        self._names = names
        self._n_init = n_init
        self._max_age = max_age
        self._payload: tuple[Any, Any] = (None, None)

    def _move(self, table: TrackTable, row: int) -> None:
        """Show this row of a table. For the tracker's use."""
        self._table = table
        self._row = row

    @property
    def _record(self) -> np.void:
        """The row, a view; not to be kept, since tables grow."""
        return self._table.tracks[self._row]

    # --- the row ---------------------------------------------------------------------------------------------

    @property
    def mean(self) -> np.ndarray:
        """(8,) read-only copy of the state's mean: x, y, a, h and velocities; pixels, frames. Can be set."""
        return _read_only(self._record["mean"].copy())

    @mean.setter
    def mean(self, value: np.ndarray) -> None:
        self._record["mean"] = value

    @property
    def covariance(self) -> np.ndarray:
        """(8, 8) read-only covariance. Can be set to one without terms between different coordinates."""
        return _read_only(kalman.dense(self._record["covariance"]))

    @covariance.setter
    def covariance(self, value: np.ndarray) -> None:
        self._record["covariance"] = kalman.blocks(value)

    @property
    def state(self) -> TrackState:
        """Tentative, confirmed or deleted. Can be set."""
        return TrackState(int(self._record["state"]))

    @state.setter
    def state(self, value: int) -> None:
        self._record["state"] = TrackState(value)

    @property
    def hits(self) -> int:
        """Detections matched so far, the first included. Can be set."""
        return int(self._record["hits"])

    @hits.setter
    def hits(self, value: int) -> None:
        self._record["hits"] = value

    @property
    def age(self) -> int | float:
        """Frames since the track started, counting from 1. Can be set."""
        return whole(self._record["age"])

    @age.setter
    def age(self, value: float) -> None:
        self._record["age"] = value

    @property
    def time_since_update(self) -> int | float:
        """Frames since a detection was last matched, 0 if one was in this frame. Can be set."""
        return whole(self._record["time_since_update"])

    @time_since_update.setter
    def time_since_update(self, value: float) -> None:
        self._record["time_since_update"] = value

    @property
    def det_class(self) -> Any:
        """Class of the detection last matched. Can be set."""
        return self._names.name(int(self._record["class_id"]))

    @det_class.setter
    def det_class(self, value: Hashable) -> None:
        self._record["class_id"] = self._names.number(value)

    @property
    def det_conf(self) -> float | None:
        """Confidence of this frame's detection, None without one. Can be set."""
        confidence = float(self._record["confidence"])
        return None if np.isnan(confidence) else confidence

    @det_conf.setter
    def det_conf(self, value: float | None) -> None:
        self._record["confidence"] = np.nan if value is None else value

    @property
    def original_ltwh(self) -> np.ndarray | None:
        """(4,) float32 box of this frame's detection, None without one. Can be set; None is to have no detection."""
        return self._record["ltwh"].copy() if self._is_matched() else None

    @original_ltwh.setter
    def original_ltwh(self, value: np.ndarray | None) -> None:
        record = self._record
        if value is None:
            record["detection"] = NO_DETECTION
        else:
            record["ltwh"] = value
            record["detection"] = max(record["detection"], 0)

    @property
    def instance_mask(self) -> Any:
        """Mask of this frame's detection, None without one. Can be set."""
        return self._payload[0] if self._is_matched() else None

    @instance_mask.setter
    def instance_mask(self, value: Any) -> None:
        self._payload = value, self._payload[1]

    @property
    def others(self) -> Any:
        """The caller's object for this frame's detection, None without one. Can be set."""
        return self._payload[1] if self._is_matched() else None

    @others.setter
    def others(self, value: Any) -> None:
        self._payload = self._payload[0], value

    def _is_matched(self) -> bool:
        return bool(self._record["detection"] != NO_DETECTION)

    # --- deep-sort-realtime's methods -----------------------------------------------------------------------------

    def is_tentative(self) -> bool:
        """True while the track is not confirmed yet."""
        return self.state == TrackState.Tentative

    def is_confirmed(self) -> bool:
        """True if the track is confirmed and not deleted."""
        return self.state == TrackState.Confirmed

    def is_deleted(self) -> bool:
        """True once the track has ended."""
        return self.state == TrackState.Deleted

    def to_ltwh(self, orig: bool = False, orig_strict: bool = False) -> np.ndarray | None:
        """The box as (4,) left, top, width, height, pixels.

        Args:
            orig: this frame's detection instead of the filter's estimate, where there is one.
            orig_strict: with `orig`, None where there is no detection.
        """
        if orig:
            original = self.original_ltwh
            if original is not None or orig_strict:
                return original
        return np.array(self._table.box(self._row))

    def to_ltrb(self, orig: bool = False, orig_strict: bool = False) -> np.ndarray | None:
        """The box as (4,) left, top, right, bottom, pixels. Arguments as for `to_ltwh`."""
        box = self.to_ltwh(orig=orig, orig_strict=orig_strict)
        if box is not None:
            box[2:] += box[:2]
        return box

    # The reference's own misnomers, kept for code written against it.
    to_tlwh = to_ltwh
    to_tlbr = to_ltrb

    def get_det_class(self) -> Any:
        """Class of the detection last matched; it stays in frames without one."""
        return self.det_class

    def get_det_conf(self) -> float | None:
        """Confidence of this frame's detection, None without one."""
        return self.det_conf

    def get_instance_mask(self) -> Any:
        """Mask of this frame's detection, None without one."""
        return self.instance_mask

    def get_det_supplementary(self) -> Any:
        """The caller's object for this frame's detection, None without one."""
        return self.others

    def get_feature(self) -> np.ndarray | None:
        """The latest appearance feature, (D,) float32, as given but for rounding; None if there never was one."""
        return self._table.latest_feature(self._row)

    # --- hooks ----------------------------------------------------------------------------------------------------

    def predict(self, kf: KalmanFilter) -> None:
        """Move ahead by `kf.dt` frames."""
        self._table.predict(self._row, kf.dt, self._max_age + 1)

    def update(self, kf: KalmanFilter, detection: Detection) -> None:
        """Update with this frame's detection: correct the state, keep its appearance, confirm after `n_init` hits."""
        confidence = np.nan if detection.confidence is None else detection.confidence
        self._table.update(self._row, detection.to_xyah().astype(np.float64), confidence, self._n_init)
        self._see(detection)
        if detection.feature is not None:
            self._table.remember(self._row, detection.feature, self._feature_budget)

    def mark_missed(self) -> None:
        """Note that no detection was matched: a tentative track ends, a confirmed one after `max_age` frames."""
        self._table.miss(self._row, self._max_age)

    def _see(self, detection: Detection) -> None:
        record = self._record
        record["detection"] = detection.index
        record["ltwh"] = detection.ltwh
        record["confidence"] = np.nan if detection.confidence is None else detection.confidence
        record["class_id"] = self._names.number(detection.class_name)
        self._payload = (detection.instance_mask, detection.others)


def _read_only(array: np.ndarray) -> np.ndarray:
    """The array, made read-only: changing it in place would change no track."""
    array.flags.writeable = False
    return array
