"""A run's metrics for Prometheus. The names are described in docs/live-page.md. Needs prometheus-client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge_tracker.app.stats import BUCKETS, CameraStats, Histogram, Stats
from edge_tracker.inference.availability import ServerStatus
from edge_tracker.version import __version__

PREFIX = "edge_tracker"


def registry_of(stats: Stats) -> CollectorRegistry:
    """A new registry with the metrics of a run and of the process, so that runs in one process stay separate."""
    registry = CollectorRegistry()
    registry.register(StatsCollector(stats))
    ProcessCollector(registry=registry)
    return registry


class StatsCollector(Collector):
    """Reads `Stats` when asked; the run itself does no extra work."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def describe(self) -> Iterable[Metric]:
        return []  # no names to compare with: it is alone in its registry

    def collect(self) -> Iterator[Metric]:
        yield from self._of_run()
        # Copies throughout: a run adds keys while it is read.
        cameras = list(self._stats.cameras.copy().values())
        yield from _of_cameras(cameras)
        yield from _of_places(cameras)

    def _of_run(self) -> Iterator[Metric]:
        stats = self._stats
        yield InfoMetricFamily(PREFIX, "The running version.", {"version": __version__})
        yield _gauge("ready", "1 when the models are loaded and the run has started.", stats.ready)
        for name, says, value in (
            ("reloads", "Times the configuration was reloaded.", stats.reloads),
            ("models_changed", "Times a model's file was replaced during the run.", stats.models_changed),
            ("embedder_calls", "Calls of the embedder.", stats.embedder_calls),
            ("embedder_cameras", "Cameras with crops in a call of the embedder, summed.", stats.embedder_cameras),
            ("detector_calls", "Calls of the detector's model.", stats.detector_calls),
            ("detector_frames", "Frames in a call of the detector's model, summed.", stats.detector_frames),
        ):
            yield CounterMetricFamily(f"{PREFIX}_{name}", says, value)
        yield from _of_servers(stats.servers.copy())
        if stats.mqtt_connected is not None:
            yield _gauge("mqtt_connected", "1 while the broker is connected.", stats.mqtt_connected)
            yield _gauge("mqtt_queue", "Messages waiting for the broker.", stats.mqtt_queue)
            yield CounterMetricFamily(
                f"{PREFIX}_mqtt_lost", "Messages that did not fit into the queue.", stats.mqtt_lost
            )


def _gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", says, float(value))


def _of_servers(servers: Mapping[str, ServerStatus]) -> Iterator[Metric]:
    up = GaugeMetricFamily(f"{PREFIX}_model_server_up", "1 while a model's server is in use.", labels=("model",))
    outages = CounterMetricFamily(
        f"{PREFIX}_model_server_outages", "Times a model's server went away.", labels=("model",)
    )
    lost = CounterMetricFamily(
        f"{PREFIX}_model_server_lost",
        "Crops or frames not processed: the server was away.",
        labels=("model",),
    )
    fallback = CounterMetricFamily(
        f"{PREFIX}_model_server_fallback", "Crops or frames that the fallback processed instead.", labels=("model",)
    )
    for name, server in servers.items():
        up.add_metric((name,), float(server.up))
        outages.add_metric((name,), server.outages)
        lost.add_metric((name,), server.lost)
        fallback.add_metric((name,), server.fallback)
    if servers:
        yield from (up, outages, lost, fallback)


def _of_cameras(cameras: list[CameraStats]) -> Iterator[Metric]:
    for name, says, attribute in (
        ("frames", "Frames tracked.", "frames"),
        ("frames_dropped", "Frames of a live source that were too old when their turn came.", "dropped"),
        ("reconnects", "Times a live source was reopened.", "reconnects"),
        ("detections", "Objects detected.", "detections"),
        ("embedded", "Detections that were embedded.", "embedded"),
        ("objects", "Different identities reported.", "tracks"),
    ):
        counter = CounterMetricFamily(f"{PREFIX}_{name}", says, labels=("camera",))
        for camera in cameras:
            counter.add_metric((camera.name,), getattr(camera, attribute))
        yield counter

    up = GaugeMetricFamily(f"{PREFIX}_camera_up", "1 while frames come.", labels=("camera",))
    active = GaugeMetricFamily(f"{PREFIX}_active_tracks", "Tracks reported in the last frame.", labels=("camera",))
    age = GaugeMetricFamily(
        f"{PREFIX}_frame_age_seconds",
        "Time since the last tracked frame; absent before the first.",
        labels=("camera",),
    )
    queues = GaugeMetricFamily(f"{PREFIX}_queue_depth", "Entries waiting in a queue.", labels=("camera", "queue"))
    lost = CounterMetricFamily(f"{PREFIX}_lost", "Entries that a slow or failing sink lost.", labels=("camera", "sink"))
    failing = GaugeMetricFamily(
        f"{PREFIX}_sink_failing", "1 while a sink fails; absent while all is well.", labels=("camera", "sink")
    )
    stages = HistogramMetricFamily(
        f"{PREFIX}_stage_seconds", "Time that a stage took for a frame.", labels=("camera", "stage")
    )
    latency = HistogramMetricFamily(
        f"{PREFIX}_latency_seconds", "Time from a frame's arrival to its results; live sources.", labels=("camera",)
    )
    now = time.monotonic()
    for camera in cameras:
        name = camera.name
        up.add_metric((name,), float(camera.connected))
        active.add_metric((name,), camera.active)
        if camera.last_frame is not None:
            age.add_metric((name,), max(0.0, now - camera.last_frame))
        for queue, depth in camera.queues.copy().items():
            queues.add_metric((name, queue), depth)
        for sink, count in camera.lost.copy().items():
            lost.add_metric((name, sink), count)
        for sink in camera.failing.copy():
            failing.add_metric((name, sink), 1.0)
        for stage, histogram in camera.stages.copy().items():
            stages.add_metric((name, stage), *_buckets(histogram))
        latency.add_metric((name,), *_buckets(camera.latency))
    yield from (up, active, age, queues, lost, failing, stages, latency)


def _of_places(cameras: list[CameraStats]) -> Iterator[Metric]:
    """The counts of zones and lines (`ZoneMonitor.totals`)."""
    zone, line = ("camera", "zone", "class"), ("camera", "line", "direction", "class")
    crossings = CounterMetricFamily(f"{PREFIX}_line_crossings", "Objects that crossed a line.", labels=line)
    of_zones: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
        "inside": GaugeMetricFamily(f"{PREFIX}_zone_inside", "Objects that are in a zone.", labels=zone),
        "entries": CounterMetricFamily(f"{PREFIX}_zone_entries", "Objects that entered a zone.", labels=zone),
        "exits": CounterMetricFamily(f"{PREFIX}_zone_exits", "Objects that left a zone.", labels=zone),
        "dwell": CounterMetricFamily(
            f"{PREFIX}_zone_dwell_seconds", "Time inside of the objects that left a zone, summed.", labels=zone
        ),
    }
    for camera in cameras:
        for place, totals in camera.totals.copy().items():
            for what, class_name, value in _by_class(totals.copy()):
                if what in of_zones:
                    of_zones[what].add_metric((camera.name, place, class_name), value)
                else:
                    crossings.add_metric((camera.name, place, what, class_name), value)
    yield from (*of_zones.values(), crossings)


def _by_class(totals: dict[str, float]) -> Iterator[tuple[str, str, float]]:
    """Classes and their counts. Objects without a class are counted under "", and no object under two classes."""
    rest = {what: value for what, value in totals.items() if "." not in what}
    whole = set(rest)
    for key, value in totals.items():
        what, dot, class_name = key.partition(".")
        if dot:
            yield what, class_name, value
            rest[what] = rest.get(what, 0) - value
            whole.discard(what)
    for what, value in rest.items():
        left = round(value, 3)  # as the sums are
        if left > 0 or what in whole:
            yield what, "", left


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Upper bounds with cumulative counts, and the sum in seconds."""
    bounds = [*map(repr, BUCKETS), "+Inf"]
    counts = accumulate(histogram.counts.copy())
    return [(bound, float(count)) for bound, count in zip(bounds, counts, strict=True)], histogram.total
