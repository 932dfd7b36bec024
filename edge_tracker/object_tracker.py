"""The tracks of a `Method` as `Track` objects, of the caller's own class if wanted, with ids as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np

from edge_tracker.errors import InputError
from edge_tracker.track import ClassNames, Detection, Track
from edge_tracker.tracking.arrays import NONE
from edge_tracker.tracking.deepsort.kalman import KalmanFilter, blocks
from edge_tracker.tracking.detections import Given, Scene
from edge_tracker.tracking.method import Embeds, Method
from edge_tracker.tracking.tables import NO_CLASS
from edge_tracker.tracking.track_table import TrackTable

# An id is (day << _DAY_BITS) + number: one counter, never the same twice, however often the numbering starts again.
_DAY_BITS = 32

# Of callers that make a new class object for every detection, not all objects are remembered.
_MOST_CLASSES = 4096

_STATE_FORMAT, _STATE_VERSION = "edge-tracker-state", 1

_HOOKS = ("predict", "update", "mark_missed")


class Payload:
    """Masks and the caller's own objects, which the detections of a frame carry along unchanged."""

    def __init__(self, masks: Sequence[Any] | None = None, others: Sequence[Any] | None = None) -> None:
        self.masks = masks
        self.others = others

    def __bool__(self) -> bool:
        return self.masks is not None or self.others is not None

    def of(self, index: int) -> tuple[Any, Any]:
        """Mask and object of one detection."""
        return (
            None if self.masks is None else self.masks[index],
            None if self.others is None else self.others[index],
        )


NO_PAYLOAD = Payload()


class ObjectTracker:
    """Tracks as objects over the table of a `Method`.

    `Track` objects are made when first asked for and then follow their rows; those of a subclass are made when the
    track starts, since their construction may matter.

    Args:
        core: the method, which runs the frames.
        track_class: `Track` or a subclass of it.
        today: the date to put before the ids; None for plain numbers.

    Raises:
        InputError: `track_class` is not a `Track`.
    """

    def __init__(self, core: Method, track_class: type[Track] | None = None, today: date | None = None) -> None:
        self.core = core
        track_class = Track if track_class is None else track_class
        if not (isinstance(track_class, type) and issubclass(track_class, Track)):
            raise InputError(f"override_track_class={track_class!r}: expected a subclass of edge_tracker.Track")
        self.kf = KalmanFilter()
        self.names = ClassNames()
        self.today = today
        self._days: list[str] = [""]
        self._track_class = track_class
        self._hooked = any(getattr(track_class, hook) is not getattr(Track, hook) for hook in _HOOKS)
        self._objects: list[Track] = []  # of the first rows, as many as have been asked for
        self._carried = False  # True if any of them holds a payload
        if today is not None:
            self._begin_day(today)

    @property
    def table(self) -> TrackTable:
        """The tracks as arrays."""
        return self.core.table

    @property
    def tracks(self) -> list[Track]:
        """The live tracks in the order in which they started."""
        return self._grown(NO_PAYLOAD).copy()

    def track_id(self, number: int) -> str:
        """The id that callers see for an id of the table."""
        day, n = number >> _DAY_BITS, number & ((1 << _DAY_BITS) - 1)
        return f"{self._days[day]}_{n}" if day else str(n)

    def numbers_of(self, classes: Sequence[Any]) -> np.ndarray:
        """Class numbers (M,) int64.

        Raises:
            InputError: a class that is not hashable, by index.
        """
        if len(self.names) > _MOST_CLASSES:
            self._forget_classes()
        try:
            try:
                return np.fromiter(map(self.names.numbers.__getitem__, classes), dtype=np.int64, count=len(classes))
            except KeyError:
                return np.fromiter(map(self.names.number, classes), dtype=np.int64, count=len(classes))
        except TypeError:
            for index, det_class in enumerate(classes):
                try:
                    hash(det_class)
                except TypeError:
                    raise InputError(f"detection {index}: class {det_class!r} is not hashable") from None
            raise

    def advance(
        self, given: Given, dt: float, payload: Payload, today: date | None = None, embeds: Embeds | None = None
    ) -> None:
        """Run one frame: `Method.step`, with the objects kept in step.

        Args:
            given, dt, embeds: as for `Method.step`.
            payload: carried along by the detections.
            today: the date of this frame, where ids are daily; None for the computer's.

        Raises:
            InputError: as `Method.step`. Nothing is changed.
        """
        before = None
        if self.today is not None:
            before = self.today, self._days, self.table.next_id
            today = datetime.now().date() if today is None else today
            if today != self.today:
                self._begin_day(today)
        try:
            if self._hooked:
                self._step_by_hooks(given, dt, payload, embeds)
            else:
                ended = self.core.step(given, dt, embeds)
                if len(ended):
                    self._part_with(ended)
        except InputError:
            if before is not None:
                self.today, self._days, self.table.next_id = before
            raise
        if payload or self._carried or self._track_class is not Track:
            tracks = self._grown(payload)
            if not self._hooked:
                self._hand_over(tracks, payload)

    def delete_all_tracks(self) -> None:
        """Delete all tracks and number from 1 again. Tracks that callers hold keep their values."""
        everyone = np.arange(len(self.table))
        self._detach(self.table.copy_rows(everyone), everyone)
        self._objects.clear()
        self.table.clear()
        self.table.next_id -= (self.table.next_id & ((1 << _DAY_BITS) - 1)) - 1

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that the next frames depend on, as plain arrays; what is not numbers is JSON text in `meta`.

        Raises:
            InputError: a live track's class is not text, a number or a truth value.
        """
        state = self.table.state_dict()
        names, class_id = ClassNames(), state["class_id"]
        renumbered = class_id.copy()
        for number in np.unique(class_id[class_id < NO_CLASS])[::-1].tolist():
            det_class = self.names.name(number)
            if isinstance(det_class, np.generic):
                det_class = det_class.item()
            if not isinstance(det_class, (str, int, float)):
                raise InputError(f"class {det_class!r} cannot be saved: use text or numbers for classes")
            renumbered[class_id == number] = names.number(det_class)
        state["class_id"] = renumbered
        meta = {
            "format": _STATE_FORMAT,
            "version": _STATE_VERSION,
            "classes": names.objects,
            "days": self._days,
            "today": None if self.today is None else self.today.isoformat(),
        }
        return {"meta": np.array(json.dumps(meta)), **state}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state_dict` gave. Objects handed out before keep their values.

        Raises:
            InputError: not such a state, or one of another version. Nothing is changed.
        """
        try:
            meta = json.loads(str(state["meta"]))
            form, version = meta["format"], meta["version"]
            today = None if meta["today"] is None else date.fromisoformat(meta["today"])
            days, names = [str(day) for day in meta["days"]], ClassNames()
            for det_class in meta["classes"]:
                names.number(det_class)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a saved tracker state ({error})") from error
        if form != _STATE_FORMAT or version != _STATE_VERSION:
            raise InputError(f"saved state is {form} {version}, this version reads {_STATE_FORMAT} {_STATE_VERSION}")
        loaded = self.core.new_table()
        loaded.load_state_dict(state, self.core.budget)
        if loaded.live["class_id"].min(initial=NO_CLASS) < NO_CLASS - len(names.objects):
            raise InputError("tracker state: a track has a class that is not listed")
        if loaded.next_id >> _DAY_BITS >= len(days):
            raise InputError("tracker state: a track has a day that is not listed")
        everyone = np.arange(len(self.table))
        self._detach(self.table.copy_rows(everyone), everyone)
        self._objects.clear()
        self.core.table, self.names, self.today, self._days = loaded, names, today, days

    def _begin_day(self, today: date) -> None:
        self.today = today
        self._days = [*self._days, str(today)]
        self.table.next_id = ((len(self._days) - 1) << _DAY_BITS) + 1

    def _step_by_hooks(self, given: Given, dt: float, payload: Payload, embeds: Embeds | None) -> None:
        """`Method.step`, but predicting and updating through the methods that the caller's class overrides."""
        scene = self.core.prepare(given, embeds)
        tracks = self._grown(NO_PAYLOAD).copy()
        self.kf.dt = dt
        self.table.unmatch()
        for track in tracks:
            track.predict(self.kf)
        self.core.match(scene, dt, embeds)
        match = self.table.live["match"].copy()
        for track, place in zip(tracks, match.tolist(), strict=True):
            if place != NONE:
                track.update(self.kf, self._detection(scene, place, payload, embeds is not None))
        for track, place in zip(tracks, match.tolist(), strict=True):
            if place == NONE:
                track.mark_missed()
        self.core.reserve(len(given.ltwh), scene.features)  # again: the methods may have added features of their own
        ended = self.core.finish(scene)
        self._part_with(ended)
        stayed = np.delete(np.arange(len(tracks)), ended)
        exchanged = stayed[self.table.live["match"][: len(stayed)] != match[stayed]]
        self._hand_over([tracks[row] for row in exchanged] + self._grown(payload)[len(stayed) :], payload)

    def _detection(self, scene: Scene, place: int, payload: Payload, asked: bool) -> Detection:
        """The detection at a place of the scene; if features were asked for, it may have none."""
        detection = scene.detections[place]
        index, confidence = int(detection["origin"]), float(detection["confidence"])
        mask, others = payload.of(index)
        has_feature = len(scene.features) and (not asked or detection["norm"] > 0.0)
        return Detection(
            ltwh=detection["ltwh"],
            confidence=None if np.isnan(confidence) else confidence,
            feature=scene.features[index] if has_feature else None,
            class_name=self.names.name(int(detection["class_id"])),
            instance_mask=mask,
            others=others,
            index=index,
        )

    def _grown(self, payload: Payload) -> list[Track]:
        """The objects of all live rows; those that are missing are made now."""
        for row in range(len(self._objects), len(self.table)):
            self._objects.append(self._make(row, payload))
        return self._objects

    def _make(self, row: int, payload: Payload) -> Track:
        core, table = self.core, self.table
        lasting = (self.track_id(int(table.tracks[row]["id"])), self.names, core.n_init, core.max_age)
        track = Track.__new__(Track)
        track._attach(table, row, *lasting)
        if self._track_class is not Track:
            track = self._construct(track, payload)
            track._attach(table, row, *lasting)
        track._feature_budget = core.budget
        return track

    def _construct(self, plain: Track, payload: Payload) -> Track:
        """An object of the caller's class for a row; changes that its constructor makes to the state are kept."""
        record = self.table.tracks[plain._row]
        index = int(record["detection"])
        mask, others = payload.of(index) if index >= 0 else (None, None)
        n_init, max_age = self.core.n_init, int(self.core.max_age)
        first = (plain.mean.copy(), plain.covariance.copy(), plain.track_id, n_init, max_age)
        rest = {
            "feature": plain.get_feature(),
            "original_ltwh": plain.original_ltwh,
            "det_class": plain.det_class,
            "det_conf": plain.det_conf,
            "instance_mask": mask,
            "others": others,
        }
        track = self._track_class.__new__(self._track_class)
        track._alone = self.table.alike()
        track.__init__(*first, **rest)  # type: ignore[misc]
        untouched = self.table.alike().tracks[0]
        untouched["mean"], untouched["covariance"] = plain.mean, blocks(plain.covariance)
        for name in ("mean", "covariance", "state", "hits", "age", "time_since_update"):
            value = track._record[name]
            if not np.array_equal(value, untouched[name]):
                record[name] = value
        return track

    def _hand_over(self, tracks: list[Track], payload: Payload) -> None:
        """Give the tracks the payload of their detections; tracks without a detection lose theirs."""
        detection = self.table.tracks["detection"]
        for track in tracks:
            index = detection[track._row]
            track._payload = payload.of(index) if index >= 0 else (None, None)
        self._carried = bool(payload)

    def _part_with(self, ended: np.ndarray) -> None:
        """Let the objects of deleted rows (K,) keep their values, and point the others to their new rows."""
        if len(ended) == 0 or not self._objects:
            return
        capacity = len(self.table.tracks)
        self._detach(self.table.copy_rows(capacity - 1 - np.arange(len(ended))), ended)
        gone = set(ended.tolist())
        self._objects = [track for row, track in enumerate(self._objects) if row not in gone]
        for row, track in enumerate(self._objects):
            track._row = row

    def _detach(self, kept: TrackTable, places: np.ndarray) -> None:
        """Point the objects of some rows, where there are any, to a table of their own."""
        for k, row in enumerate(places):
            if row < len(self._objects):
                self._objects[row]._move(kept, k)

    def _forget_classes(self) -> None:
        """Keep only the classes that live tracks have. Objects of ended tracks keep the old names."""
        names = ClassNames()
        live = self.table.live["class_id"]
        live[:] = [NO_CLASS if c == NO_CLASS else names.number(self.names.name(int(c))) for c in live]
        self.names = names
        for track in self._objects:
            track._names = names
