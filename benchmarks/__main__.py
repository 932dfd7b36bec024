"""`make bench`: the tracker and the embedder beside their peers, each on one thread."""

from __future__ import annotations

import os

# Before NumPy loads: neither side gets help from other cores.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

from benchmarks import embedder, tracking  # noqa: E402

tracking.main()
print()
embedder.main()
