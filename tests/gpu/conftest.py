"""Tests that need an NVIDIA GPU: `make test-gpu` runs them and ends with a table of what they measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_tracker.errors import DeviceError
from edge_tracker.inference.builder import import_tensorrt
from edge_tracker.inference.cuda import Cuda, open_cuda
from edge_tracker.inference.onnx import gpu_providers

ROWS = pytest.StashKey[list[tuple[str, str]]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Adds a row to the table."""
    rows = request.config.stash.setdefault(ROWS, [])
    return lambda what, value: rows.append((what, value))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("measured on the GPU")
        width = max(len(what) for what, _ in rows)
        for what, value in rows:
            terminalreporter.write_line(f"{what:<{width}}  {value}")


@pytest.fixture(scope="session")
def cuda() -> Cuda:
    try:
        return open_cuda()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tensorrt(cuda: Cuda) -> object:
    try:
        return import_tensorrt()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cuda_provider(cuda: Cuda) -> str:
    """ONNX Runtime with its CUDA provider."""
    if "cuda" not in gpu_providers():
        pytest.skip("needs onnxruntime-gpu")
    return "cuda"
