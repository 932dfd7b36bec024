"""TensorRT-RTX as a judge of ONNX files: it parses and compiles them on a machine without a GPU.

It does so by TensorRT 11's rules: strongly typed, precision as the file says, no FP16 flag, no calibrator.
"""

from __future__ import annotations

from typing import Any

import pytest

PACKAGE = "tensorrt-rtx-cu13"


def compile_onnx(model: bytes, batch: int = 4) -> bytes:
    """Build an engine from an ONNX file; skips the test where TensorRT-RTX isn't installed.

    Args:
        model: the file.
        batch: the largest batch of a model whose batch is dynamic.

    Raises:
        AssertionError: it can't be parsed or built; says why.
    """
    trt = pytest.importorskip("tensorrt_rtx", reason=f"needs {PACKAGE}: pip install {PACKAGE}", exc_type=ImportError)
    logger = _logger(trt)
    logger.complaints.clear()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model)
    assert parsed, "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
    config = builder.create_builder_config()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if -1 in tensor.shape:
            profile = builder.create_optimization_profile()
            rest = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, (1, *rest), (batch, *rest), (batch, *rest))
            config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, "; ".join(logger.complaints)
    return bytes(engine)


_loggers: list[Any] = []


def _logger(trt: Any) -> Any:
    """The one logger of this process: TensorRT keeps the first that it is given."""
    if not _loggers:

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.complaints: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.ERROR:
                    self.complaints.append(message)

        _loggers.append(Logger())
    return _loggers[0]
