"""`make bench`: start-up, the tracker, the embedder and the program beside their counterparts, each on one thread."""

from __future__ import annotations

import os

# Before NumPy loads: neither side gets help from other cores.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

from benchmarks import embedder, program, startup, tracking  # noqa: E402

startup.main()
print()
tracking.main()
print()
embedder.main()
print()
program.main()
