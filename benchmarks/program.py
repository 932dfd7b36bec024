"""Frames per second of the whole program on the demo video, beside the usual loop around deep-sort-realtime.

    python -m benchmarks.program [--passes 3] [--frames 795]

All read the same video, run the same detector (YOLOv3-tiny on ONNX Runtime), embed with MobileNetV2 and write the same
text file, each on one thread. edge-tracker is the program itself, like `edge-tracker run`; its embedder in INT8 is
calibrated on people in the video's first frames. The reference is `DeepSort()` with its defaults and its own network
in torch; only its embedder's two torchvision transforms are reimplemented, in `tests.embedding.reference`.

Speed is given in CPU time of all threads together, which other processes disturb least, and in wall-clock time, where
the program gains from running stages in parallel. Opening is not counted, and the passes alternate.
IDF1 and HOTA are measured with the ground truth of PETS09-S2L1, which is the demo video, if it is there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from benchmarks.embedder import ROOT, VIDEOS, people, quantise
from edge_tracker.app.config.loading import load_config
from edge_tracker.app.evaluation.evaluation import find_sequences, score_results
from edge_tracker.app.run.pipeline import Pipeline
from edge_tracker.detection.detector import Detector
from edge_tracker.errors import SourceError
from edge_tracker.tracking.warmup import warm_up

SEQUENCE, FRAMES = "PETS09-S2L1", 795
TRUTH = ROOT.parent / "shared/data/mot15"
DETECTOR, CLASSES, CONFIDENCE = "yolov3-tiny", ["person"], 0.3
REFERENCE = "deep-sort-realtime 1.3.2"
# The aim: `edge` as the program runs it by default, in multiples of the reference's frames per second.
AIM = 5
FP32, INT8 = "mobilenetv2", "mobilenetv2.int8-cpu"
# The program's settings: embedder, keys of the tracker, and `detector.every`.
OURS: dict[str, tuple[str, dict[str, Any], int]] = {
    "edge": (FP32, {"method": "edge"}, 1),
    "edge, detecting in every second frame": (FP32, {"method": "edge"}, 2),
    "edge, embedder in INT8": (INT8, {"method": "edge"}, 1),
    "edge, every detection embedded": (FP32, {"method": "edge", "selective": False}, 1),
    "exact mode": (FP32, {"method": "deepsort"}, 1),
}


class Run(NamedTuple):
    """One pass over the video: frames, seconds of CPU and wall-clock time, share of detections embedded."""

    frames: int
    seconds: float
    clock: float
    embedded: float


def edge_tracker(video: Path, frames: int, embedder: str, tracker: Mapping[str, Any], every: int, results: Path) -> Run:
    """The program."""
    config = load_config(
        {
            "device": "cpu",
            "threads": 1,
            "source": {"uri": str(video)},
            "detector": {"model": DETECTOR, "classes": CLASSES, "confidence": CONFIDENCE, "every": every},
            "embedder": {"model": embedder},
            "tracker": tracker,
            "outputs": {"mot": str(results)},
        }
    )
    with Pipeline(config) as pipeline:
        start, clock = time.process_time(), time.perf_counter()
        pipeline.run(frames)
        seconds, clock = time.process_time() - start, time.perf_counter() - clock
    summary = pipeline.summary
    if summary.stopped_by is not None:
        raise KeyboardInterrupt
    (stats,) = summary.stats.cameras.values()
    return Run(stats.frames, seconds, clock, stats.embedded / max(stats.detections, 1))


class ReferenceEmbedder:
    """The reference's `MobileNetv2_Embedder` on a CPU."""

    def __init__(self) -> None:
        from tests.embedding import reference

        self._predict, self._network = reference.predict, reference.load_network()

    def predict(self, images: list[np.ndarray]) -> list[np.ndarray]:
        """A feature for each image."""
        return self._predict(self._network, images)


def deep_sort_realtime(video: Path, frames: int, results: Path) -> Run:
    """The loop of the reference's users: read, detect, `update_tracks`, take the boxes of the confirmed tracks.

    Tracks without a detection in the frame are omitted, as the program omits them; with them, scores are lower.
    """
    from deep_sort_realtime.deepsort_tracker import DeepSort

    detector = Detector(DETECTOR, confidence=CONFIDENCE, classes=CLASSES, device="cpu", threads=1)
    tracker = DeepSort(embedder=None)
    tracker.embedder = ReferenceEmbedder()
    capture = cv2.VideoCapture(str(video))
    done = 0
    with results.open("w") as file:
        start, clock = time.process_time(), time.perf_counter()
        while done < frames:
            ok, image = capture.read()
            if not ok:
                break
            done += 1
            found = detector.detect(image)
            raw = [
                (box, confidence, "person")
                for box, confidence in zip(found.ltwh.tolist(), found.confidence.tolist(), strict=True)
            ]
            for track in tracker.update_tracks(raw, frame=image):
                if track.is_confirmed() and track.time_since_update == 0:
                    left, top, width, height = track.to_ltwh()
                    file.write(f"{done},{track.track_id},{left:.2f},{top:.2f},{width:.2f},{height:.2f},1,-1,-1,-1\n")
        seconds, clock = time.process_time() - start, time.perf_counter() - clock
    capture.release()
    detector.close()
    return Run(done, seconds, clock, 1.0)


def scores(folder: Path, whole: bool) -> str:
    """HOTA and IDF1 of `folder/SEQ.txt`; dashes if there is no ground truth, or not for these frames."""
    if not whole:
        return "- | -"
    try:
        sequences = find_sequences(TRUTH, [SEQUENCE])
    except SourceError:
        return "- | -"
    overall = score_results(sequences, folder).overall
    return f"{overall['HOTA']:.1f} | {overall['IDF1']:.1f}"


def measure(works: Mapping[str, Callable[[Path], Run]], passes: int) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Run all in turn, `passes` times, and return their runs, and the scores "HOTA | IDF1" of each one's first."""
    runs: dict[str, list[Run]] = {name: [] for name in works}
    found = {}
    for number in range(1, passes + 1):
        for name, work in works.items():
            with TemporaryDirectory() as folder:
                run = work(Path(folder, f"{SEQUENCE}.txt"))
                runs[name].append(run)
                if name not in found:
                    found[name] = scores(Path(folder), run.frames == FRAMES)
            rate = run.frames / run.seconds
            print(f"pass {number} of {passes}: {name} | {rate:.2f} | {found[name]}", file=sys.stderr, flush=True)
    return runs, found


def speeds(runs: Sequence[Run]) -> np.ndarray:
    """Frames per second (R, 2) of CPU and of wall-clock time."""
    return np.array([[run.frames / run.seconds, run.frames / run.clock] for run in runs])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=3, help="number of passes over the video, each")
    parser.add_argument(
        "--frames", type=int, default=FRAMES, help="number of frames of the video; scores need all of them"
    )
    options = parser.parse_args()
    if options.passes < 1 or options.frames < 1:
        parser.error("--passes and --frames must be at least 1")
    video = next((path for path in VIDEOS if path.is_file()), None)
    if video is None:
        sys.exit("benchmarks.program: needs the demo video: run `make demo`")

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for method in ("edge", "deepsort"):
        warm_up(method)
    with TemporaryDirectory() as folder:
        quantised = Path(folder, f"{INT8}.onnx")
        quantise(FP32, people(video)[0], quantised)
        models = {FP32: FP32, INT8: str(quantised)}
        works: dict[str, Callable[[Path], Run]] = {REFERENCE: partial(deep_sort_realtime, video, options.frames)}
        for name, (model, tracker, every) in OURS.items():
            works[name] = partial(edge_tracker, video, options.frames, models[model], tracker, every)
        runs, found = measure(works, options.passes)

    print(f"the whole program on {runs[REFERENCE][0].frames} frames of the demo video, one thread for each model")
    columns = "frames/s, CPU | ratio | aim | frames/s, wall clock | ratio | HOTA | IDF1 | embedded"
    print(f"| median of {options.passes} | {columns} |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    base = speeds(runs[REFERENCE])
    for name, own in runs.items():
        rates = speeds(own)
        (processor, clock), (less, sooner) = np.median(rates, axis=0), np.median(rates / base, axis=0)
        aim = f"{AIM}x" if name == "edge" else ""
        print(
            f"| {name} | {processor:.2f} | {less:.1f}x | {aim} | {clock:.2f} | {sooner:.1f}x | {found[name]} "
            f"| {100 * own[0].embedded:.0f} % |"
        )


if __name__ == "__main__":
    main()
