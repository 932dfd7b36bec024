"""Four cameras in one process for ten minutes: the stability of memory and queues, and the size of batches.

The cameras are real MJPEG servers on loopback that repeat the demo video, each from another position. The figures come
from the program's own /metrics and from the kernel.

    python -m benchmarks.soak                 ten minutes
    python -m benchmarks.soak --minutes 1
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

from tests.app.programs import free_port
from tests.app.street import StreetCamera

CAMERAS = 4
SAMPLE_S = 10.0
COUNTED = ("frames_total", "frames_dropped_total", "queue_depth")


def metrics(port: int) -> dict[str, float]:
    """The program's metrics, summed over all cameras."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    values: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.partition("{")[0]
            values[name] = values.get(name, 0.0) + float(value)
    return values


def rss_mib(pid: int) -> float:
    """Resident memory of a process, shared memory included, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    """Run, sample, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--video", default="data/vtest.avi")
    options = parser.parse_args()
    cameras = [StreetCamera(options.video, first=170 * i) for i in range(CAMERAS)]
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "device": "cpu",
            "cameras": [{"name": f"c{i}", "source": {"uri": c.uri, "fps": 10.0}} for i, c in enumerate(cameras)],
            "detector": {"model": "yolov3-tiny", "classes": ["person"]},
            "tracker": {"selective": False},
            "outputs": {"jsonl": f"{folder}/{{camera}}.jsonl"},
            "server": {"port": port},
            "state": {"folder": folder},
        }
        path = Path(folder) / "cam.yaml"
        path.write_text(yaml.safe_dump(config))
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_tracker", "--config", str(path), "--duration", str(60 * options.minutes)],
            stdout=subprocess.PIPE,
            text=True,
        )
        print("| s | MiB | frames | dropped | waiting | detector: frames per call | embedder: cameras per call |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        start = time.monotonic()
        while process.poll() is None:
            time.sleep(SAMPLE_S)
            try:
                m = metrics(port)
                detector = m["edge_tracker_detector_frames_total"] / max(1, m["edge_tracker_detector_calls_total"])
                embedder = m["edge_tracker_embedder_cameras_total"] / max(1, m["edge_tracker_embedder_calls_total"])
                figures = (
                    f"{time.monotonic() - start:.0f}",
                    f"{rss_mib(process.pid):.0f}",
                    *(f"{m[f'edge_tracker_{name}']:.0f}" for name in COUNTED),
                    f"{detector:.2f}",
                    f"{embedder:.2f}",
                )
                print(f"| {' | '.join(figures)} |", flush=True)
            except (OSError, StopIteration):  # it is not running yet, or has just ended
                continue
        print(process.communicate()[0])
    for camera in cameras:
        camera.unplug()


if __name__ == "__main__":
    main()
