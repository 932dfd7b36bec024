"""The cost of a frame, stage by stage, and the throughput of a broker, measured on this machine.

Stages are timed by the wall clock, so the machine must be idle.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from edge_tracker.app.config.loading import load_config
from edge_tracker.app.open_models import Models
from edge_tracker.app.run.pipeline import Pipeline
from edge_tracker.detection.detector import Detector
from edge_tracker.embedding.embedder import Embedder
from edge_tracker.inference.load import load_model
from edge_tracker.inference.model import InProcess, Model
from tests.app.programs import free_port

DETECTOR, EMBEDDER, CONFIDENCE = "yolov3-tiny", "mobilenetv2", 0.3


class Costs(NamedTuple):
    """The mean costs of one frame. Times are seconds of one core.

    Attributes:
        read: decoding.
        detect: the detector, without its model: preparing the image, decoding the boxes.
        detect_model: its model.
        embed: the embedder, without its model.
        embed_model: its model, for one crop.
        track: association, filter, events.
        write: all files.
        crops: crops that are embedded.
        image_bytes, crop_bytes: size of the models' input for a frame, and for a crop.
        text_bytes, video_bytes: size of the JSON lines and the MOT text, and of the annotated video.
        events, event_bytes: number of events, and size of one as a message.
        tracks_bytes: size of all objects as a message.
    """

    read: float
    detect: float
    detect_model: float
    embed: float
    embed_model: float
    track: float
    write: float
    crops: float
    image_bytes: float
    crop_bytes: float
    text_bytes: float
    video_bytes: float
    events: float
    event_bytes: float
    tracks_bytes: float

    @property
    def around_models(self) -> float:
        """Seconds of a core for all but the models."""
        return self.read + self.detect + self.embed + self.track + self.write

    @property
    def in_models(self) -> float:
        """Seconds of a core for the models."""
        return self.detect_model + self.crops * self.embed_model

    @property
    def fed_bytes(self) -> float:
        """Bytes of input for the models."""
        return self.image_bytes + self.crops * self.crop_bytes


class _Timed(InProcess):
    """A model that counts its images, their bytes, and the CPU time of the thread that calls it, in seconds."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.seconds, self.images, self.fed = 0.0, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As the model's `run`."""
        start = time.thread_time()
        outputs = self._model.run(feeds)
        self.seconds += time.thread_time() - start
        (images,) = feeds.values()
        self.images, self.fed = self.images + len(images), self.fed + images.nbytes
        return outputs


@contextmanager
def mosquitto() -> Iterator[int | None]:
    """Run a broker, and yield its port; None if there is no Mosquitto."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        yield None
        return
    port = free_port()
    with TemporaryDirectory() as folder:
        config = Path(folder, "mosquitto.conf")
        # With a limit on the messages that wait for a client, others would be lost.
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        broker = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield port
        finally:
            broker.terminate()
            broker.wait()


def broker_rate(size: int, count: int = 20_000) -> float | None:
    """Messages of a size that Mosquitto passes from one client to another per second; None if it is missing.

    Both clients are in Python, and slower than the broker, so this is a lower bound.
    """
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    got, subscribed, over = 0, threading.Event(), threading.Event()

    def count_it(*_: Any) -> None:
        nonlocal got
        got += 1
        if got == count:
            over.set()

    with mosquitto() as port:
        if port is None:
            return None
        giver, taker = clients = [Client(CallbackAPIVersion.VERSION2) for _ in range(2)]
        taker.on_connect = lambda *_: taker.subscribe("edge-tracker/#", qos=1)
        taker.on_subscribe, taker.on_message = lambda *_: subscribed.set(), count_it
        for client in clients:
            client.connect_async("127.0.0.1", port)
            client.loop_start()  # tries until the broker is up
        try:
            if not subscribed.wait(30):
                return None
            start = time.perf_counter()
            for number in range(count):
                giver.publish(f"edge-tracker/camera{number % 100}/events", b"x" * size, qos=1)
            return count / (time.perf_counter() - start) if over.wait(60) else None
        finally:
            for client in clients:
                client.disconnect()
                client.loop_stop()


def measure(video: Path, frames: int) -> Costs:
    """Run the program on the first frames of a video."""
    with TemporaryDirectory() as folder:
        kinds = {"mot": "txt", "jsonl": "jsonl", "video": "mp4"}
        outputs = {kind: Path(folder, f"out.{suffix}") for kind, suffix in kinds.items()}
        config = load_config(
            {
                "device": "cpu",
                "threads": 1,
                "source": {"uri": str(video)},
                "detector": {"model": DETECTOR, "classes": ["person"], "confidence": CONFIDENCE},
                "embedder": {"model": EMBEDDER},
                "outputs": {kind: str(path) for kind, path in outputs.items()},
            }
        )
        detector_model, embedder_model = (_Timed(load_model(name, "cpu", 1)) for name in (DETECTOR, EMBEDDER))
        models = Models(
            Detector(detector_model, confidence=CONFIDENCE, classes=["person"]),  # type: ignore[arg-type]
            Embedder(embedder_model),  # type: ignore[arg-type]
        )
        for timed in (detector_model, embedder_model):  # runs before now, while opening, do not count
            timed.seconds, timed.images, timed.fed = 0.0, 0, 0
        with Pipeline(config, models=models) as pipeline:
            pipeline.run(frames)
        summary = pipeline.summary
        lines = [json.loads(line) for line in outputs["jsonl"].read_text().splitlines()]
        sizes = {kind: path.stat().st_size for kind, path in outputs.items()}
    done = summary.frames
    seconds = {stage: summary.stage_ms(stage) / 1000 for stage in ("read", "detect", "embed", "track", "write")}
    events = [event for line in lines for event in line.pop("events", [])]
    return Costs(
        read=seconds["read"],
        detect=max(0.0, seconds["detect"] - detector_model.seconds / done),
        detect_model=detector_model.seconds / detector_model.images,
        embed=max(0.0, seconds["embed"] - embedder_model.seconds / done),
        embed_model=embedder_model.seconds / embedder_model.images,
        track=seconds["track"],
        write=seconds["write"],
        crops=embedder_model.images / done,
        image_bytes=detector_model.fed / detector_model.images,
        crop_bytes=embedder_model.fed / embedder_model.images,
        text_bytes=(sizes["mot"] + sizes["jsonl"]) / done,
        video_bytes=sizes["video"] / done,
        events=len(events) / done,
        event_bytes=float(np.mean([len(json.dumps(event)) for event in events])) if events else 0.0,
        tracks_bytes=float(np.mean([len(json.dumps(line)) for line in lines])),
    )
