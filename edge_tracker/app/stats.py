"""The counts and times of a run. Each figure has one writer; readers take its current value."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from edge_tracker.inference.availability import ServerStatus

STAGES = ("read", "detect", "embed", "track", "write")

# Upper bounds, seconds: from what a desktop GPU needs for a crop to a stalled network.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

RATE_OVER_S = 5.0  # frames per second are over the last so many seconds


class Histogram:
    """Durations in buckets, as Prometheus wants them.

    Attributes:
        counts: of each bucket of `BUCKETS`, and of those beyond; not cumulated.
        total: seconds, of all.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        """Add one."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


@dataclass
class CameraStats:
    """The figures of one camera.

    Attributes:
        frames: tracked so far.
        dropped: frames of a live source that were too old when their turn came.
        reconnects: times a live source was opened again.
        connected: whether frames come.
        ended: whether all frames of a file have been taken.
        problem: what went wrong last with the source, without credentials; None while all is well.
        detections, embedded: number found so far, and of these the number with an appearance feature.
        tracks: different identities reported so far.
        active: tracks reported in the last frame.
        stages: how long each stage took for a frame.
        latency: seconds from a frame's arrival to its results, for live sources.
        queues: frames or messages that wait, by the queue's name.
        lost: frames or messages that a slow or failing sink lost, by the sink's name.
        failing: what went wrong last with a sink, by its name; empty while all is well.
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
        """A frame is done."""
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
    """The figures of a run.

    Attributes:
        cameras: by name.
        started: time.monotonic() when the run began.
        mqtt_connected: None without a broker.
        mqtt_lost: messages that did not fit into the queue.
        mqtt_queue: messages that wait.
        ready: whether models are loaded and the run is going.
        reloads: times the configuration was taken up anew.
        models_changed: times a model's file was replaced while the run went on with the old one.
        embedder_calls, embedder_cameras: calls of the embedder, and how many cameras' crops were in them, summed.
        detector_calls, detector_frames: calls of the detector's model, and frames in them, summed.
        servers: how it is with the models on servers; "embedder" and "detector" where they are.
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
