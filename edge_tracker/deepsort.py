"""EdgeDeepSort: raw detections and frame in, tracks out."""

from __future__ import annotations

import operator
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edge_tracker import configured
from edge_tracker.errors import InputError
from edge_tracker.files import atomic_path
from edge_tracker.object_tracker import NO_PAYLOAD, ObjectTracker, Payload
from edge_tracker.track import Track
from edge_tracker.track_arrays import TrackArrays
from edge_tracker.tracking.deepsort.settings import DeepSortParameters
from edge_tracker.tracking.deepsort.tracker import DeepSortTracker
from edge_tracker.tracking.detections import NO_CLASSES, NO_FLOATS, Given
from edge_tracker.tracking.edge.settings import EdgeParameters, EdgeSettings
from edge_tracker.tracking.edge.tracker import EdgeTracker
from edge_tracker.tracking.method import Embeds, Method
from edge_tracker.tracking.parameters import Common
from edge_tracker.tracking.tables import NO_CLASS

if TYPE_CHECKING:
    from pathlib import Path

    from edge_tracker.embedding.protocol import AppearanceEmbedder


class EdgeDeepSort:
    """Multi-object tracker: drop-in for `deep_sort_realtime.deepsort_tracker.DeepSort`.

    Args:
        max_iou_distance: largest 1 - IoU at which the IoU stage matches.
        max_age: frames a confirmed track lives without a detection.
        n_init: hits that confirm a track.
        nms_max_overlap: a detection is dropped if one of higher confidence covers a larger share of it; 1 for none.
        max_cosine_distance: largest cosine distance at which appearance matches.
        nn_budget: features kept for a track, the newest ones; None for no limit.
        gating_only_position: gate on the box centre alone.
        override_track_class: a subclass of `Track`, of which the tracks then are.
        embedder: "mobilenet", "torchreid", "clip_RN50", "clip_RN101", "clip_RN50x4", "clip_RN50x16", "clip_ViT-B/32",
            "clip_ViT-B/16", any other exported model's name or file, the address of one on a Triton server
            ("triton://HOST:PORT/MODEL"), an `Embedder` (which stays the caller's to close),
            or None if features come with the detections.
        half: run the FP16 model where the device is a GPU.
        bgr: frames are BGR (OpenCV's order), not RGB.
        embedder_gpu: True for the best device there is, False for the CPU, or "auto", "cpu", "cuda", "tensorrt".
        embedder_model_name: for "torchreid", the name of the network; osnet_ain_x1_0 if None.
        embedder_wts: the embedder's `.onnx` or `.engine` file, instead of the one found by name.
        polygon: detections are polygons.
        today: today's date, for ids that carry the date and start from 1 again every day.
        class_aware: match tracks only to detections of their own class.
        drop_invalid: leave out detections with NaN or infinite values instead of refusing the frame.
        method: "deepsort", exactly that of deep-sort-realtime, or "edge", which keeps identities better and embeds
            only where it matters (docs/edge-method.md). It has settings of its own instead of `max_iou_distance`,
            `max_age`, `n_init`, `max_cosine_distance`, `nn_budget` and `gating_only_position`.
        frame_rate: for "edge", the frames per second in which `dt` counts.
        max_embeddings: for "edge", crops to embed in a frame at most, the most valuable first; None for no limit.
        selective: for "edge", False to embed every detection.
        edge_settings: for "edge", other parameters than the default ones.

    Attributes:
        embedded: number of detections of the last frame that the embedder computed features of.
        embed_seconds: time that this took, seconds.

    Raises:
        InputError: an argument that is out of range, by name, or belongs to the other method.
        ModelError: the embedder's model does not exist, or is not an embedder.
        DeviceError: the device that was asked for cannot be used.
    """

    def __init__(
        self,
        max_iou_distance: float = 0.7,
        max_age: int = 30,
        n_init: int = 3,
        nms_max_overlap: float = 1.0,
        max_cosine_distance: float = 0.2,
        nn_budget: int | None = 100,
        gating_only_position: bool = False,
        override_track_class: type[Track] | None = None,
        embedder: str | AppearanceEmbedder | None = "mobilenet",
        half: bool = True,
        bgr: bool = True,
        embedder_gpu: bool | str = True,
        embedder_model_name: str | None = None,
        embedder_wts: str | Path | None = None,
        polygon: bool = False,
        today: date | None = None,
        *,
        class_aware: bool = False,
        drop_invalid: bool = False,
        method: Literal["deepsort", "edge"] = "deepsort",
        frame_rate: float = 30.0,
        max_embeddings: int | None = None,
        selective: bool = True,
        edge_settings: EdgeSettings | None = None,
    ) -> None:
        common = Common(nms_max_overlap, class_aware, drop_invalid)
        exact = DeepSortParameters(
            max_iou_distance, max_age, n_init, max_cosine_distance, nn_budget, gating_only_position
        )
        edge = EdgeParameters(frame_rate, max_embeddings, selective, edge_settings)
        if method not in ("deepsort", "edge"):
            raise InputError(f"method={method!r}: expected 'deepsort' or 'edge'")
        other, defaults = (exact, DeepSortParameters()) if method == "edge" else (edge, EdgeParameters())
        for name, value in other._asdict().items():
            if value != getattr(defaults, name):
                raise InputError(f"{name}={value!r} means nothing to method={method!r}: leave it out")
        tracker: Method = EdgeTracker(edge, common) if method == "edge" else DeepSortTracker(exact, common)
        self.tracker = ObjectTracker(tracker, override_track_class, today)
        self.method = method
        self.polygon = polygon
        self.embedded = 0
        self.embed_seconds = 0.0
        self.embedder: AppearanceEmbedder | None = None
        if embedder is not None and not isinstance(embedder, str):
            self.embedder = embedder
        elif embedder is not None:
            self.embedder = _open_embedder(embedder, embedder_model_name, embedder_wts, half, bgr, embedder_gpu)

    @classmethod
    def from_config(cls, config: str | Path | Mapping[str, Any], *, frame_rate: float | None = None) -> EdgeDeepSort:
        """The tracker, with its embedder, that a `cam.yaml` describes, for apps with their own frames and detections.

        Args:
            config: the YAML file, or its content as a mapping. `source` may be missing from it.
            frame_rate: frames per second of the app's frames; if None, `source.fps` of the configuration.

        Raises:
            ConfigError: the configuration cannot be read or is not valid.
            ModelError, DeviceError: the embedder cannot be used.
        """
        return configured.open_configured(config, frame_rate)

    def update_tracks(
        self,
        raw_detections: Iterable[Any],
        embeds: Iterable[Any] | None = None,
        frame: np.ndarray | None = None,
        today: date | None = None,
        others: Any = None,
        instance_masks: Any = None,
        *,
        dt: float = 1.0,
    ) -> list[Track]:
        """Track through one frame.

        Args:
            raw_detections: `([left, top, width, height], confidence, class)` each, pixels, the class optional; or with
                `polygon=True` three sequences `[polygons, classes, confidences]`, a polygon being
                `[x1, y1, x2, y2, …]`. Boxes without area are left out, with all that belongs to them.
            embeds: a feature (D,) for each detection; computed from `frame` if None.
            frame: (H, W, 3) uint8 image, needed if `embeds` is None.
            today: the date of this frame, if ids are daily.
            others: an object for each detection, which its track then has; anything but a sequence (also a text) goes
                to all of them. With polygons, the polygon takes this place.
            instance_masks: (H, W) bool for each detection, True on the object: the rest is blanked before embedding.
            dt: frames since the last call; more than 1 where frames were skipped.

        Returns:
            All live tracks, tentative ones too, in the order in which they started.

        Raises:
            InputError: detections, features or the rest are not of the form above, or their counts differ. The
                tracker is as it was before.
        """
        if embeds is not None or self.embedder is not None or self.method == "deepsort":
            self._require_features(embeds, frame)
        if self.polygon:
            parts = [list(part) for part in raw_detections]
            ltwh, confidence, classes, polygons = _parse_polygons(parts)
            payload = Payload(others=parts[0] if parts else None)
        else:
            ltwh, confidence, classes = _parse_boxes(list(raw_detections))
            polygons, payload = None, NO_PAYLOAD
            if instance_masks is not None or others is not None:
                payload = Payload(
                    masks=_for_each("instance_masks", instance_masks, len(ltwh)),
                    others=_for_each("others", others, len(ltwh)),
                )
        class_ids = NO_CLASSES if classes is None else self.tracker.numbers_of(classes)
        features = self._features(embeds, len(ltwh))
        given = Given(ltwh, confidence, class_ids, features)
        asked = None if embeds is not None else self._embeds(frame, ltwh, payload.masks, polygons)
        self.tracker.advance(given, _time_step(dt), payload, today, asked)
        return self.tracker.tracks

    def update(
        self,
        ltwh: np.ndarray,
        confidence: np.ndarray | None = None,
        class_ids: np.ndarray | None = None,
        features: np.ndarray | None = None,
        *,
        frame: np.ndarray | None = None,
        today: date | None = None,
        dt: float = 1.0,
    ) -> TrackArrays:
        """Track through one frame, arrays in and arrays out, with no Python object a track.

        Args:
            ltwh: (M, 4) left, top, width, height, pixels.
            confidence: (M,).
            class_ids: (M,) whole numbers from 0, or -1 for none.
            features: (M, D). If None they are computed from `frame`; if the tracker has no embedder either, tracks are
                associated by motion alone: every live track by the IoU of its predicted box.
            frame: (H, W, 3) uint8 image.
            today, dt: as for `update_tracks`.

        Returns:
            All live tracks in the order in which they started.

        Raises:
            InputError: as for `update_tracks`.
        """
        ltwh = _array("ltwh", ltwh, np.float64, (None, 4))
        m = len(ltwh)
        confidence = NO_FLOATS if confidence is None else _array("confidence", confidence, np.float64, (m,))
        if class_ids is None:
            class_ids = NO_CLASSES
        else:
            class_ids = _array("class_ids", class_ids, np.int64, (m,))
            if class_ids.min(initial=NO_CLASS) < NO_CLASS:
                index = int(class_ids.argmin())
                raise InputError(f"detection {index}: class id {class_ids[index]}, expected 0 or more, or -1 for none")
        if features is None and self.embedder is not None:
            self._require_features(None, frame)
        asked = None if features is not None else self._embeds(frame, ltwh)
        given = Given(ltwh, confidence, class_ids, self._features(features, m))
        self.tracker.advance(given, _time_step(dt), NO_PAYLOAD, today, asked)
        return TrackArrays.of(self.tracker.table)

    def predicted(self, dt: float) -> TrackArrays:
        """The live tracks with their boxes as predicted `dt` frames after the last update. Changes nothing.

        Tracks that would have been deleted by then, having had no detection for that long, are left out.

        Raises:
            InputError: `dt` is not a number greater than 0.
        """
        dt, table = _time_step(dt), self.tracker.table
        arrays = TrackArrays.of(table)
        since = arrays.time_since_update + dt
        ahead = replace(arrays, ltrb=table.ltrb_after(dt), time_since_update=since)
        return ahead[since <= self.tracker.core.max_age]

    @property
    def next_id(self) -> int:
        """The identity that the next new track gets, as in `TrackArrays.ids`."""
        return self.tracker.table.next_id

    def skip_ids(self, count: int) -> None:
        """Leave out the next `count` identities: after a crash, those that may have been used since the last save."""
        self.tracker.table.next_id += max(0, int(count))

    def delete_all_tracks(self) -> None:
        """Delete all tracks and number from 1 again."""
        self.tracker.delete_all_tracks()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that the next frames depend on, as plain arrays (`numpy.savez` them, or use `save_state`).

        Masks and the caller's own objects are not part of it.

        Raises:
            InputError: a live track's class is not text, a number or a truth value.
        """
        return self.tracker.state_dict()

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state_dict` gave: same ids, frame for frame.

        Raises:
            InputError: not such a state, or one of another version. Nothing is changed.
        """
        self.tracker.load_state_dict(state)

    def save_state(self, path: str | Path) -> None:
        """Write `state_dict` to a file: a NumPy `.npz` of plain arrays, without pickle, written atomically.

        Raises:
            InputError: as for `state_dict`.
            OSError: the file cannot be written.
        """
        state = self.state_dict()
        with atomic_path(path) as partial, partial.open("wb") as file:
            np.savez(file, **state)  # type: ignore[arg-type]

    def load_state(self, path: str | Path) -> None:
        """Go on from what `save_state` wrote.

        Raises:
            InputError: not such a file, or of another version. Nothing is changed.
            OSError: the file cannot be read.
        """
        try:
            archive = np.load(path, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("a single array")
            with archive:
                state = {name: archive[name] for name in archive.files}
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: not a saved tracker state ({error})") from None
        self.load_state_dict(state)

    def _require_features(self, embeds: Iterable[Any] | None, frame: np.ndarray | None) -> None:
        if embeds is None and self.embedder is None:
            raise InputError("embeds is missing: this tracker has no embedder (embedder=None), so give features")
        if embeds is None and frame is None:
            raise InputError("frame is missing: the embedder needs it (or give embeds)")

    def _features(self, embeds: Iterable[Any] | None, m: int) -> np.ndarray:
        """Given features as (M, D) float32, (0, D) if there are none; a new frame, so embeddings count from 0."""
        self.embedded, self.embed_seconds = 0, 0.0
        if embeds is None:
            return self.tracker.core.no_features()
        if not isinstance(embeds, np.ndarray):
            embeds = list(embeds)
        if len(embeds) != m:
            raise InputError(f"embeds: {len(embeds)} for {m} detections")
        return _array("embeds", embeds, np.float32, (m, None)) if m else self.tracker.core.no_features()

    def _embeds(
        self,
        frame: np.ndarray | None,
        ltwh: np.ndarray,
        masks: Sequence[Any] | None = None,
        polygons: Sequence[np.ndarray] | None = None,
    ) -> Embeds | None:
        """The embedder for the detections of one frame, None if there is no embedder."""
        return None if self.embedder is None else _FrameEmbedder(self, frame, ltwh, masks, polygons)


class _FrameEmbedder:
    """Embeds detections of one frame, and counts them and the time in the tracker.

    Args:
        tracker: whose embedder it is.
        frame: (H, W, 3) uint8 image.
        ltwh, masks, polygons: of its detections, as for `Embedder.embed`.
    """

    def __init__(
        self,
        tracker: EdgeDeepSort,
        frame: np.ndarray | None,
        ltwh: np.ndarray,
        masks: Sequence[Any] | None,
        polygons: Sequence[np.ndarray] | None,
    ) -> None:
        assert tracker.embedder is not None
        self._tracker, self._embedder = tracker, tracker.embedder
        self._frame, self._ltwh, self._masks, self._polygons = frame, ltwh, masks, polygons
        self.dimension = self._embedder.dimension

    def __call__(self, places: np.ndarray) -> np.ndarray:
        before = perf_counter()
        features = self._embedder.embed(
            self._frame,  # type: ignore[arg-type]
            self._ltwh[places],
            masks=None if self._masks is None else [self._masks[i] for i in places],
            polygons=None if self._polygons is None else [self._polygons[i] for i in places],
        )
        self._tracker.embedded += int(features.any(axis=1).sum())
        self._tracker.embed_seconds += perf_counter() - before
        return features


def _parse_boxes(raw: list[Any]) -> tuple[np.ndarray, np.ndarray, Sequence[Any] | None]:
    """ltwh (M, 4), confidence (M,) and classes of `([l, t, w, h], confidence[, class])` detections."""
    if not raw:
        return np.empty((0, 4)), NO_FLOATS, None
    try:
        lengths = set(map(len, raw))
        boxes = [detection[0] for detection in raw]
        if not lengths <= {2, 3} or set(map(len, boxes)) != {4}:
            raise ValueError
        ltwh = np.fromiter(chain.from_iterable(boxes), dtype=np.float64, count=4 * len(raw)).reshape(-1, 4)
        confidence = np.fromiter(map(operator.itemgetter(1), raw), dtype=np.float64, count=len(raw))
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise _blame(raw) from None
    if lengths == {2}:
        return ltwh, confidence, None
    return ltwh, confidence, [detection[2] if len(detection) == 3 else None for detection in raw]


def _blame(raw: list[Any]) -> InputError:
    """The error for the first detection of another form than required."""
    form = "expected ([left, top, width, height], confidence) or ([left, top, width, height], confidence, class)"
    for index, detection in enumerate(raw):
        try:
            box, confidence = detection[0], float(detection[1])
            good = len(detection) in (2, 3) and len([float(v) for v in box]) == 4 and confidence is not None
        except (TypeError, ValueError, IndexError, KeyError, OverflowError):
            good = False
        if not good:
            return InputError(f"detection {index} is {detection!r:.120}: {form}")
    return InputError(f"detections: {form}")


def _parse_polygons(raw: list[list[Any]]) -> tuple[np.ndarray, np.ndarray, Sequence[Any] | None, list[np.ndarray]]:
    """Bounding ltwh (M, 4), confidence (M,), classes and vertices (P, 2) of `[polygons, classes, confidences]`.

    The box of a polygon that is not finite is NaN, for the tracker to refuse or leave out.
    """
    if not raw:
        return np.empty((0, 4)), NO_FLOATS, None, []
    if len(raw) != 3:
        raise InputError(f"polygon detections have {len(raw)} parts: expected [polygons, classes, confidences]")
    flat, classes, scores = raw
    if not len(flat) == len(classes) == len(scores):
        raise InputError(f"{len(flat)} polygons, {len(classes)} classes, {len(scores)} confidences: expected as many")
    vertices, ltwh = [], np.empty((len(flat), 4))
    for index, polygon in enumerate(flat):
        try:
            points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            points = np.empty((0, 2))
        if len(points) < 3:
            raise InputError(f"polygon {index} is {polygon!r:.120}: expected [x1, y1, x2, y2, …], three points or more")
        # Whole pixels, the last one included, as cv2.boundingRect has them.
        pixels = np.trunc(points)
        if np.isfinite(pixels).all():
            ltwh[index, :2] = pixels.min(axis=0)
            ltwh[index, 2:] = pixels.max(axis=0) - ltwh[index, :2] + 1
        else:
            ltwh[index] = np.nan
        vertices.append(pixels)
    return ltwh, _array("confidences", scores, np.float64, (len(flat),)), classes, vertices


def _for_each(name: str, value: Any, m: int) -> Sequence[Any] | None:
    """One object for each of M detections, from a sequence, or from a single object for all."""
    if value is None:
        return None
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)):
        return [value] * m
    values = list(value)
    if len(values) != m:
        raise InputError(f"{name}: {len(values)} for {m} detections")
    return values


def _array(name: str, value: Any, dtype: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """A contiguous, writable array of the type, with the shape (None: any length from 1) that it must have."""
    try:
        array = np.ascontiguousarray(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: cannot be read as numbers of shape {shape} ({error})") from None
    if array.size == 0 and shape[0] in (0, None):
        return np.empty([n or 0 for n in shape], dtype=dtype)
    if array.ndim != len(shape) or any(w not in (None, h) or h == 0 for w, h in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("M" if n is None else str(n) for n in shape)
        raise InputError(f"{name}: shape {array.shape}, expected ({wanted})")
    # Compiled code has one form for arrays it may write to; another would be compiled for those it may not.
    return array if array.flags.writeable else array.copy()


def _time_step(dt: float) -> float:
    if not (isinstance(dt, (int, float, np.integer, np.floating)) and 0 < dt < float("inf")):
        raise InputError(f"dt={dt!r}: expected a number of frames greater than 0")
    return float(dt)


def _open_embedder(
    embedder: str, model_name: str | None, weights: str | Path | None, half: bool, bgr: bool, device: bool | str
) -> AppearanceEmbedder:
    """The embedder that the constructor's arguments describe, loaded and warmed up."""
    from edge_tracker.embedding.embedder import Embedder
    from edge_tracker.embedding.models import model_name as name_of

    if isinstance(device, bool):
        device = "auto" if device else "cpu"
    return Embedder(name_of(embedder, model_name) if weights is None else weights, device=device, bgr=bgr, half=half)
