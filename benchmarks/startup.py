"""Seconds until the first frame is tracked: with an empty cache, when everything is compiled, and after that."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

METHODS = ("deepsort", "edge")
WARM_RUNS = 5

# Two objects with features: what a first frame takes. Without features less is compiled.
PROGRAM = """
import sys
import numpy as np
from edge_tracker import EdgeDeepSort
tracker = EdgeDeepSort(method=sys.argv[1], embedder=None)
boxes = np.array([[0.0, 0.0, 10.0, 20.0], [40.0, 0.0, 10.0, 20.0]])
tracker.update(boxes, np.ones(2), None, np.eye(2, dtype=np.float32) if sys.argv[2] == "features" else None)
"""


def first_update(method: str, kind: str, cache: str) -> tuple[float, float]:
    """Seconds of processor time and by the clock that a new process takes to import, and to track one frame."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "OPENBLAS_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", PROGRAM, method, kind], env=environment, stderr=subprocess.DEVNULL, check=True
    )
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, took


def main() -> None:
    """Print the table."""
    print("import and first update, seconds of processor time (by the clock)")
    print("| method | cache empty | cache full |")
    print("| --- | ---: | ---: |")
    for method in METHODS:
        for kind in ("motion", "features"):
            with tempfile.TemporaryDirectory() as cache:
                cold = first_update(method, kind, cache)
                warm = [first_update(method, kind, cache) for _ in range(WARM_RUNS)]
            cpu, clock = (median(values) for values in zip(*warm, strict=True))
            print(f"| {method}, {kind} | {cold[0]:.1f} ({cold[1]:.1f}) | {cpu:.2f} ({clock:.2f}) |", flush=True)


if __name__ == "__main__":
    main()
