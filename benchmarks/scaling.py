"""The limits of each way to run many cameras, and the machines for 1 to 10,000: a simulation from measured costs.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --fps 25 --cores 16 --accelerator 100 --link 25

First the program runs on the demo video, and the cost of each stage on one core of this machine is measured
(`benchmarks.costs`). Then cameras are simulated frame by frame, with the program's queues: the detector takes the
newest frame of a camera and drops older ones, one frame of a camera is detected while another is tracked, and a busy
model takes everything that waits in its next call. Values that were not measured are arguments: the speed of an
accelerator in multiples of a core, and its fixed cost per call.

A machine carries a number of cameras if they lose at most 1 % of their frames and 99 % of the others are done within
half a second.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np
import simpy

from benchmarks.costs import Costs, broker_rate, measure
from benchmarks.embedder import VIDEOS

LOSSES, LATENCY_S = 0.01, 0.5
COUNTS = (1, 10, 100, 1000, 10_000)
BATCH = 64  # images in a call at most
DAY_S = 86400
Process = Generator[simpy.Event, Any, None]


class Site(NamedTuple):
    """Machines that work for the same cameras.

    Attributes:
        cores: for everything but the models, and also for the models if there is no accelerator.
        accelerator: its speed for the models in multiples of a core; 0 for none.
        call: fixed seconds per call of it.
        link: bits per second to it; infinite within the same machine.
    """

    cores: int
    accelerator: float = 0.0
    call: float = 0.0
    link: float = math.inf


class Outcome(NamedTuple):
    """Share of frames lost, 99th percentile of the seconds to a result, and images per call."""

    lost: float
    latency: float
    batch: float

    @property
    def good(self) -> bool:
        return self.lost <= LOSSES and self.latency <= LATENCY_S


class Simulation:
    """Cameras at a site."""

    def __init__(self, costs: Costs, site: Site, cameras: int, fps: float, seed: int = 0) -> None:
        self.costs, self.site, self.fps = costs, site, fps
        self.env = simpy.Environment()
        self.rng = np.random.default_rng(seed)
        self.cores = simpy.Resource(self.env, site.cores)
        self.link = simpy.Resource(self.env)
        self.waiting: list[tuple[int, float, simpy.Event]] = []  # for the accelerator: images, seconds of each, done
        self.idle: simpy.Event | None = None
        self.given = self.lost = self.calls = self.images = 0
        self.latencies: list[float] = []
        for _ in range(cameras):
            slot: simpy.Store[float] = simpy.Store(self.env, 1)
            tracked: simpy.Store[float] = simpy.Store(self.env, 1)
            self.env.process(self._source(slot))
            self.env.process(self._detect(slot, tracked))
            self.env.process(self._track(tracked))
        if site.accelerator:
            self.env.process(self._accelerator())

    def run(self, seconds: float) -> Outcome:
        """Simulate this many seconds."""
        self.env.run(until=seconds)
        late = float(np.quantile(self.latencies, 0.99)) if self.latencies else math.inf
        return Outcome(self.lost / max(self.given, 1), late, self.images / max(self.calls, 1))

    def _work(self, seconds: float) -> Process:
        with self.cores.request() as core:
            yield core
            yield self.env.timeout(seconds)

    def _model(self, images: int, seconds: float, size: float) -> Process:
        """A call: on a core, or over the link on the accelerator, with everything else that waits for it."""
        if not self.site.accelerator:
            yield from self._work(images * seconds)
            return
        if math.isfinite(self.site.link):
            with self.link.request() as way:
                yield way
                yield self.env.timeout(8 * images * size / self.site.link)
        done = self.env.event()
        self.waiting.append((images, seconds, done))
        if self.idle is not None:
            self.idle.succeed()
            self.idle = None
        yield done

    def _accelerator(self) -> Process:
        while True:
            if not self.waiting:
                self.idle = self.env.event()
                yield self.idle
            # A call is of one model, the one that has waited longest.
            kind = self.waiting[0][1]
            taken: list[tuple[int, float, simpy.Event]] = []
            left = []
            images = 0
            for item in self.waiting:
                fits = item[1] == kind and (not taken or images + item[0] <= BATCH)
                (taken if fits else left).append(item)
                images += item[0] if fits else 0
            self.waiting = left
            yield self.env.timeout(self.site.call + images * kind / self.site.accelerator)
            self.calls, self.images = self.calls + 1, self.images + images
            for _, _, done in taken:
                done.succeed()

    def _source(self, slot: simpy.Store[float]) -> Process:
        due = self.rng.uniform(0, 1 / self.fps)
        while True:
            yield self.env.timeout(max(0.0, due - self.env.now))
            came, due = due, due + 1 / self.fps
            self.given += 1
            if self.env.now - came > 1 / self.fps:  # the decoder is behind: the camera's buffer runs over
                self.lost += 1
                continue
            yield from self._work(self.costs.read)
            if slot.items:  # the last one has not been taken
                slot.items.clear()
                self.lost += 1
            slot.put(came)

    def _detect(self, slot: simpy.Store[float], tracked: simpy.Store[float]) -> Process:
        costs = self.costs
        while True:
            came = yield slot.get()
            yield from self._work(costs.detect)
            yield from self._model(1, costs.detect_model, costs.image_bytes)
            yield tracked.put(came)

    def _track(self, tracked: simpy.Store[float]) -> Process:
        costs = self.costs
        while True:
            came = yield tracked.get()
            crops = int(self.rng.poisson(costs.crops))
            yield from self._work(costs.embed)
            if crops:
                yield from self._model(crops, costs.embed_model, costs.crop_bytes)
            yield from self._work(costs.track + costs.write)
            self.latencies.append(self.env.now - came)


def most_cameras(carries: Callable[[int], bool]) -> int:
    """The number of cameras that a site carries, to within 2 %; 0 if not even one."""
    if not carries(1):
        return 0
    low, high = 1, 2
    while carries(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if carries(middle) else (low, middle)
    return low


def rounded(number: float) -> str:
    """A number with three significant digits and a unit prefix."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "


def table(*rows: tuple[object, ...]) -> None:
    """Print rows, the first as the header."""
    head, *body = rows
    print("| " + " | ".join(map(str, head)) + " |")
    print("| --- |" + " ---: |" * (len(head) - 1))
    for row in body:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def print_costs(costs: Costs) -> None:
    """Print the measured costs."""
    print("Measured, of one frame, on one core:\n")
    table(
        ("stage", "ms"),
        ("read", f"{1e3 * costs.read:.2f}"),
        ("detect: image in, boxes out", f"{1e3 * costs.detect:.2f}"),
        ("detect: the model", f"{1e3 * costs.detect_model:.2f}"),
        ("embed: crops in, features out", f"{1e3 * costs.embed:.2f}"),
        (f"embed: the model, {costs.crops:.2f} crops", f"{1e3 * costs.crops * costs.embed_model:.2f}"),
        ("track", f"{1e3 * costs.track:.2f}"),
        ("write: text and video", f"{1e3 * costs.write:.2f}"),
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="frames of the demo video to measure")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of each simulation")
    parser.add_argument("--fps", type=float, default=10.0, help="frames per second of each camera")
    parser.add_argument("--cores", type=int, default=8, help="cores of a machine")
    parser.add_argument("--accelerator", type=float, default=50.0, help="its speed in multiples of a core")
    parser.add_argument("--call-ms", type=float, default=2.0, help="fixed milliseconds per call of the accelerator")
    parser.add_argument("--link", type=float, default=10.0, help="Gbit/s to a model server")
    options = parser.parse_args()
    if min(options.frames, options.seconds, options.fps, options.cores, options.accelerator, options.link) <= 0:
        parser.error("all numbers must be above 0")
    if options.call_ms < 0:
        parser.error("--call-ms must be at least 0")
    video = next((path for path in VIDEOS if path.is_file()), None)
    if video is None:
        sys.exit("benchmarks.scaling: needs the demo video: run `make demo`")
    costs, fps = measure(video, options.frames), options.fps
    print_costs(costs)

    call, link = options.call_ms / 1000, 1e9 * options.link
    sites = {
        "machine": Site(options.cores),
        "machine with an accelerator": Site(options.cores, options.accelerator, call),
        # Each separately, with the other one unlimited.
        "worker without models": Site(options.cores, 1e9),
        "model server": Site(10**6, options.accelerator, call, link),
    }
    found: dict[str, tuple[int, Outcome]] = {}
    for name, site in sites.items():
        print(f"simulating: {name}", file=sys.stderr, flush=True)

        def outcome(cameras: int, site: Site = site) -> Outcome:
            return Simulation(costs, site, cameras, fps).run(options.seconds)

        most = most_cameras(lambda cameras, outcome=outcome: outcome(cameras).good)  # type: ignore[misc]
        found[name] = most, outcome(max(most, 1))
    print(
        f"Cameras of {fps:g} frames per second that each carries: {options.cores} cores, an accelerator as fast as "
        f"{options.accelerator:g} cores with {options.call_ms:g} ms per call, {options.link:g} Gbit/s:\n"
    )
    busy = {
        name: (
            most * fps * costs.around_models,
            most * fps * 8 * costs.fed_bytes,
        )
        for name, (most, _) in found.items()
    }
    table(
        ("", "cameras", "99 % within", "images per call", "cores busy without models", "sent to the models"),
        *(
            (
                name,
                most,
                f"{1e3 * result.latency:.0f} ms",
                f"{result.batch:.1f}" if sites[name].accelerator else "",
                f"{busy[name][0]:.1f}" if name != "model server" else "",
                f"{rounded(busy[name][1])}bit/s" if sites[name].accelerator else "",
            )
            for name, (most, result) in found.items()
        ),
    )

    def needed(name: str, cameras: int) -> str:
        most = found[name][0]
        return str(math.ceil(cameras / most)) if most else "too slow"

    per_second = fps * costs.events + 1  # plus all tracks once a second
    rows = []
    for cameras in COUNTS:
        messages = cameras * per_second
        traffic = cameras * 8 * (fps * costs.events * costs.event_bytes + costs.tracks_bytes)
        rows.append(
            (
                f"{cameras:,}",
                needed("machine", cameras),
                needed("machine with an accelerator", cameras),
                f"{needed('worker without models', cameras)} + {needed('model server', cameras)}",
                f"{rounded(cameras * fps * 8 * costs.fed_bytes)}bit/s",
                f"{rounded(messages)}/s, {rounded(traffic)}bit/s",
                f"{rounded(cameras * fps * DAY_S * costs.text_bytes)}B",
                f"{rounded(cameras * fps * DAY_S * costs.video_bytes)}B",
            )
        )
    print("Requirements by number of cameras:\n")
    table(
        (
            "cameras",
            "machines",
            "machines with an accelerator",
            "workers + model servers",
            "to the model servers",
            "to the broker",
            "text per day",
            "video per day",
        ),
        *rows,
    )
    seconds = costs.around_models + costs.in_models
    hours = 1 / seconds / fps
    print(f"Recordings: {seconds:.3f} s of a core per frame, {hours:.2f} hours of video per hour and core.")
    rate = broker_rate(round(costs.event_bytes))
    if rate is not None:
        print(
            f"One Mosquitto passes at least {rate:,.0f} messages per second here, of {rate / per_second:,.0f} cameras."
        )


if __name__ == "__main__":
    main()
