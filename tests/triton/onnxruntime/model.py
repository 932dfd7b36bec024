"""Stands in for Triton's ONNX Runtime backend, which the server of the tests lacks: repositories are served unchanged.

Requests that the server batches run as one, as there.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"], args["model_version"], config["default_model_filename"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._outputs = [output["name"] for output in config["output"]]
        self._batched = config["max_batch_size"] > 0

    def execute(self, requests):
        feeds = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        if not self._batched or len(feeds) == 1:
            return [self._response(self._session.run(self._outputs, feed)) for feed in feeds]
        together = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        ends = np.cumsum([len(next(iter(feed.values()))) for feed in feeds])[:-1]
        parts = [np.split(array, ends) for array in self._session.run(self._outputs, together)]
        return [self._response(arrays) for arrays in zip(*parts, strict=True)]

    def _response(self, arrays):
        tensors = [triton.Tensor(name, array) for name, array in zip(self._outputs, arrays, strict=True)]
        return triton.InferenceResponse(tensors)
