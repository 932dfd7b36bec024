"""Fixtures of all tests: the real data, the exported models, and a log that each test leaves as it was."""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
# Tests that load ONNX Runtime by themselves report no more to its makers than edge-tracker does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# NumPy's and torch's own threads wait for each other by spinning, which costs several times what they compute, on small
# arrays and beside other workers. NumPy reads this when it is imported, so it stands before that.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# Ctrl-C reaches the tests and the programs that they start, even if a shell started pytest with it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples in every run, however long the machine takes for them. Fixtures may serve several.
settings.register_profile(
    "edge-tracker",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("edge-tracker")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the files with most slow tests first if several workers share them: then all workers end together."""
    if hasattr(config, "workerinput"):
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _log_as_before():
    """The command line, called within a test, sets up the log for a stream that is gone after it."""
    root, package = logging.getLogger(), logging.getLogger("edge_tracker")
    handlers, levels = root.handlers[:], (root.level, package.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    package.setLevel(levels[1])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sequences with ground truth that may lie beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the sequences of ../shared/data, which are not here")
    return folder


@pytest.fixture(scope="session")
def engines() -> Path:
    """The folder of exported models."""
    folder = Path(os.environ.get("EDGE_TRACKER_ENGINES", ROOT / "engines"))
    if not any(folder.glob("*.onnx")):
        pytest.skip("needs exported models: run `make export`")
    return folder


@pytest.fixture(scope="session")
def demo_video() -> Path:
    """OpenCV's vtest.avi: 795 frames of real pedestrians, 768x576."""
    for path in (ROOT / "data/vtest.avi", ROOT.parent / "shared/data/mot15/PETS09-S2L1/vtest.avi"):
        if path.is_file():
            return path
    pytest.skip("needs the demo video: run `make demo`")
