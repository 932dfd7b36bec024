"""A Ray instance with two CPUs, as a batch starts one for itself, until the standard input ends. Prints its address."""

from __future__ import annotations

import sys

from edge_tracker.app.batch.cluster import Wanted, connected

with connected(None, Wanted(workers=2, cpus=1)):
    import ray

    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
