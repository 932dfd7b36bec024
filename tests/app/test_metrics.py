"""The metrics page, read by Prometheus's own parser."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("prometheus_client", reason="needs the extra 'server'")

from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from edge_tracker.app.config.schema import LineConfig, ZoneConfig
from edge_tracker.app.counting.zones import ZoneMonitor
from edge_tracker.app.outputs.metrics import registry_of
from edge_tracker.app.stats import BUCKETS, STAGES, CameraStats, Stats
from edge_tracker.inference.availability import ServerStatus
from tests.waiting import meanwhile


def samples(stats: Stats) -> dict[tuple, float]:
    """Value by name and labels."""
    text = generate_latest(registry_of(stats)).decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: dict[tuple, float], name: str, **labels: str) -> float:
    return found[(f"edge_tracker_{name}", *sorted(labels.items()))]


def test_figures_of_cameras():
    yard = CameraStats(
        "yard", frames=7, dropped=2, reconnects=1, connected=True, detections=30, embedded=12, tracks=5, active=3
    )
    yard.queues, yard.lost, yard.failing = {"write": 4}, {"jsonl": 9, "mot": 0}, {"jsonl": "no room"}
    yard.last_frame = time.monotonic() - 20
    found = samples(Stats({"yard": yard, "gate": CameraStats("gate")}))
    expected = {
        "frames_total": 7, "frames_dropped_total": 2, "reconnects_total": 1, "camera_up": 1, "detections_total": 30,
        "embedded_total": 12, "objects_total": 5, "active_tracks": 3,
    }  # fmt: skip
    assert {name: value(found, name, camera="yard") for name in expected} == expected
    assert dict.fromkeys(expected, 0) == {name: value(found, name, camera="gate") for name in expected}
    assert value(found, "queue_depth", camera="yard", queue="write") == 4
    assert value(found, "lost_total", camera="yard", sink="jsonl") == 9
    assert value(found, "lost_total", camera="yard", sink="mot") == 0
    assert value(found, "sink_failing", camera="yard", sink="jsonl") == 1
    assert 20 <= value(found, "frame_age_seconds", camera="yard") < 80
    assert ("edge_tracker_frame_age_seconds", ("camera", "gate")) not in found


def test_figures_of_model_servers():
    assert not [name for name, *_ in samples(Stats()) if "model_server" in name]
    away = ServerStatus("triton://here:8001/one", up=False, problem="gone", outages=3, lost=40, fallback=2)
    found = samples(Stats(servers={"embedder": away, "detector": ServerStatus("triton://here:8001/two", up=True)}))
    expected = {
        "model_server_up": 0, "model_server_outages_total": 3, "model_server_lost_total": 40,
        "model_server_fallback_total": 2,
    }  # fmt: skip
    assert {name: value(found, name, model="embedder") for name in expected} == expected
    assert value(found, "model_server_up", model="detector") == 1


def test_counts_of_zones_and_lines_add_up_over_classes():
    yard = CameraStats("yard")
    yard.totals = {
        "door": {"inside": 1, "entries": 5, "entries.person": 3, "entries.car": 2, "exits": 2, "exits.person": 1,
                 "dwell": 8.25, "dwell.person": 8.0},
        "fence": {"in": 4, "in.person": 4, "out": 0},
    }  # fmt: skip
    found = samples(Stats({"yard": yard}))
    for figure, expected in {
        "zone_inside": {"": 1},
        "zone_entries_total": {"person": 3, "car": 2},
        "zone_exits_total": {"person": 1, "": 1},
        "zone_dwell_seconds_total": {"person": 8.0, "": 0.25},
    }.items():
        values = {
            dict(labels)["class"]: value
            for (name, *labels), value in found.items()
            if name == f"edge_tracker_{figure}" and dict(labels)["zone"] == "door"
        }
        assert values == expected, figure
    crossings = {
        (dict(labels)["direction"], dict(labels)["class"]): value
        for (name, *labels), value in found.items()
        if name == "edge_tracker_line_crossings_total"
    }
    assert crossings == {("in", "person"): 4, ("out", ""): 0}


def test_zone_counts_come_from_the_monitor_itself():
    """The figures that zones really give are the ones read here."""
    square = {"polygon": [[0, 0], [100, 0], [100, 100], [0, 100]]}
    monitor = ZoneMonitor({"door": ZoneConfig(**square)}, {"fence": LineConfig(start=[50, 200], end=[50, 0])})
    yard = CameraStats("yard")
    for step, left in enumerate((-60.0, 20.0, 60.0, 200.0)):
        boxes = np.array([[left, 20.0, left + 20, 60.0]])
        monitor.update(np.array([1]), boxes, ["person"], {1}, float(step), 1000.0 + step)
    yard.totals = monitor.totals()
    found = samples(Stats({"yard": yard}))
    zone = {"camera": "yard", "zone": "door", "class": "person"}
    assert value(found, "zone_entries_total", **zone) == 1
    assert value(found, "zone_exits_total", **zone) == 1
    assert value(found, "zone_dwell_seconds_total", **zone) > 0
    across = sum(v for (name, *_), v in found.items() if name == "edge_tracker_line_crossings_total")
    assert across == 1


def test_histograms_are_cumulated_and_end_at_infinity():
    camera = CameraStats("yard")
    for seconds in (0.0005, 0.001, 0.02, 3.0, 60.0):
        camera.stages["detect"].observe(seconds)
        camera.latency.observe(seconds)
    found = samples(Stats({"yard": camera}))
    labels = {"camera": "yard", "stage": "detect"}
    by_hand = [sum(s <= bound for s in (0.0005, 0.001, 0.02, 3.0, 60.0)) for bound in BUCKETS]
    assert [value(found, "stage_seconds_bucket", le=repr(bound), **labels) for bound in BUCKETS] == by_hand
    assert value(found, "stage_seconds_bucket", le="+Inf", **labels) == 5
    assert value(found, "stage_seconds_count", **labels) == 5
    assert value(found, "stage_seconds_sum", **labels) == pytest.approx(63.0215)
    assert value(found, "latency_seconds_count", camera="yard") == 5
    assert all(value(found, "stage_seconds_count", camera="yard", stage=s) == 0 for s in STAGES if s != "detect")


def test_figures_of_the_run_and_the_process():
    stats = Stats(
        ready=True,
        reloads=2,
        models_changed=1,
        embedder_calls=10,
        embedder_cameras=25,
        detector_calls=8,
        detector_frames=16,
    )
    found = samples(stats)
    assert value(found, "ready") == 1
    assert (value(found, "reloads_total"), value(found, "models_changed_total")) == (2, 1)
    assert (value(found, "embedder_calls_total"), value(found, "embedder_cameras_total")) == (10, 25)
    assert (value(found, "detector_calls_total"), value(found, "detector_frames_total")) == (8, 16)
    assert found[("process_resident_memory_bytes",)] > 1e6
    assert not any(name[0].startswith("edge_tracker_mqtt") for name in found), "there is no broker"
    stats.mqtt_connected, stats.mqtt_lost, stats.mqtt_queue = False, 3, 11
    found = samples(stats)
    assert [value(found, f"mqtt_{name}") for name in ("connected", "lost_total", "queue")] == [0, 3, 11]


def test_openmetrics_takes_it_too():
    text = generate_openmetrics(registry_of(Stats({"yard": CameraStats("yard")}))).decode()
    families = {family.name: family.type for family in openmetrics_parser.text_string_to_metric_families(text)}
    assert families["edge_tracker_frames"] == "counter"
    assert families["edge_tracker_stage_seconds"] == "histogram"


@pytest.mark.slow
def test_read_while_a_run_counts():
    """Histograms hold together, and no dictionary that grows stops a scrape."""
    stats = Stats({"yard": CameraStats("yard")})
    camera = stats.cameras["yard"]

    def count(stop: threading.Event) -> None:
        k = 0
        while not stop.is_set():
            k += 1
            camera.latency.observe(0.001 * (k % 50))
            camera.lost[f"sink{k % 200}"] = k
            camera.totals[f"zone{k % 50}"] = {"entries": k}
            if k % 200 == 0:
                camera.lost.clear()

    with meanwhile(count):
        for _ in range(50):
            found = samples(stats)
            buckets = [value(found, "latency_seconds_bucket", camera="yard", le=repr(b)) for b in BUCKETS]
            assert buckets == sorted(buckets)
            assert value(found, "latency_seconds_count", camera="yard") >= buckets[-1]


def test_the_documented_names_are_those_that_are_given():
    text = (Path(__file__).parents[2] / "docs/live-page.md").read_text(encoding="utf-8")
    table = text.split("## Metrics")[1].split("`class` is empty")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| `")]
    documented = {
        (name.removesuffix("_total"), kind.strip())
        for names, kind, _ in rows
        for name in (part.strip(" `") for part in names.split(","))
    }
    stats = Stats({"yard": CameraStats("yard")}, mqtt_connected=True, servers={"embedder": ServerStatus("triton://…")})
    text_of_run = generate_latest(registry_of(stats)).decode()
    given = {
        (family.name.removeprefix("edge_tracker_"), family.type)
        for family in text_string_to_metric_families(text_of_run)
        if family.name.startswith("edge_tracker")
    }
    assert documented == given
    rules = yaml.safe_load((Path(__file__).parents[2] / "configs/deploy/alerts.yml").read_text())["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"edge_tracker_(\w+?)(?:_bucket)?\b", rule["expr"])}
    assert {name.removesuffix("_total") for name in asked} <= {name for name, _ in given}
    assert len(asked) > 8
