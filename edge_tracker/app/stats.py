"""Statistics of a run: counts and durations. Each has one writer; readers need no lock."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from edge_tracker.inference.availability import ServerStatus

STAGES = ("read", "detect", "embed", "track", "write")

# Upper bounds in seconds: from the time of a crop on a desktop GPU to a stalled network.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

RATE_OVER_S = 5.0  # period that frames per second are measured over


class Histogram:
    """Durations in buckets, for Prometheus.

    Attributes:
        counts: number in each bucket of `BUCKETS`, and beyond the last; not cumulated.
        total: sum of all, seconds.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """Number of durations."""
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        """Add a duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


@dataclass
class CameraStats:
    """Statistics of one camera.

    Attributes:
        frames: frames tracked so far.
        dropped: frames of a live source that were replaced by newer ones before they were processed.
        reconnects: number of times that a live source was reopened.
        connected: True while frames arrive.
        ended: True if all frames of a file have been read.
        problem: the last problem of the source, without credentials; None if there is none.
        detections, embedded: detections so far, and the number of them whose appearance was computed.
        tracks: number of identities reported so far.
        active: number of tracks reported in the last frame.
        stages: durations of each stage per frame.
        latency: seconds from a frame's arrival to its results, for live sources.
        queues: number of waiting frames or messages, by the queue's name.
        lost: number of frames or messages that a slow or failing sink lost, by the sink's name.
        failing: the last problem of each failing sink, by its name.
        totals: counts of zones and lines (`ZoneMonitor.totals`).
        last_frame: time.monotonic() of the last frame tracked; None before the first.
    """

    name: str
    frames: int = 0
    dropped: int = 0
    reconnects: int = 0
    connected: bool = False
    ended: bool = False
    problem: str | None = None
    detections: int = 0
    embedded: int = 0
    tracks: int = 0
    active: int = 0
    stages: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})
    latency: Histogram = field(default_factory=Histogram)
    queues: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)
    totals: dict[str, dict[str, float]] = field(default_factory=dict)
    last_frame: float | None = None
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=1000))

    def count_frame(self) -> None:
        """Count a finished frame."""
        self.frames += 1
        self.last_frame = time.monotonic()
        self._times.append(self.last_frame)

    @property
    def fps(self) -> float:
        """Frames per second over the last seconds."""
        now = time.monotonic()
        times = [t for t in self._times.copy() if now - t <= RATE_OVER_S]
        return (len(times) - 1) / (now - times[0]) if len(times) > 1 else 0.0


@dataclass
class Stats:
    """Statistics of a run.

    Attributes:
        cameras: statistics of the cameras, by name.
        started: time.monotonic() at the start of the run.
        mqtt_connected: True while connected to the broker; None without a broker.
        mqtt_lost: number of lost messages.
        mqtt_queue: number of waiting messages.
        ready: True while models are loaded and the run is going.
        reloads: number of times that the configuration was reloaded.
        models_changed: number of times that a model's file was replaced, while the run continued with the old one.
        embedder_calls, embedder_cameras: calls of the embedder, and the sum of the cameras whose crops were in them.
        detector_calls, detector_frames: calls of the detector's model, and the sum of the frames in them.
        servers: status of the models on servers, by "embedder" and "detector".
    """

    cameras: dict[str, CameraStats] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    mqtt_connected: bool | None = None
    mqtt_lost: int = 0
    mqtt_queue: int = 0
    ready: bool = False
    reloads: int = 0
    models_changed: int = 0
    embedder_calls: int = 0
    embedder_cameras: int = 0
    detector_calls: int = 0
    detector_frames: int = 0
    servers: dict[str, ServerStatus] = field(default_factory=dict)
