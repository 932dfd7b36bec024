"""A server that speaks Triton's protocol, for what no real one can be brought to do at will."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc


class Scripted(service_pb2_grpc.GRPCInferenceServiceServicer):
    """One model, an embedder of 8 x 4 pixels.

    Attributes:
        version: that it says it is.
        width: length of its features.
        most: rows; requests with more are answered only once `released` is set.
        asked: rows of each request so far.
    """

    def __init__(self) -> None:
        self.version, self.width, self.most, self.asked = "1", 3, 1000, []
        self.released = threading.Event()

    def ModelMetadata(self, request, context):
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        images = tensor(name="images", datatype="UINT8", shape=[-1, 8, 4, 3])
        outputs = tensor(name="features", datatype="FP32", shape=[-1, -1])
        return service_pb2.ModelMetadataResponse(
            name=request.name, versions=[self.version], inputs=[images], outputs=[outputs]
        )

    def ModelConfig(self, request, context):
        return service_pb2.ModelConfigResponse(config=model_config_pb2.ModelConfig(max_batch_size=64))

    def ModelInfer(self, request, context):
        rows = request.inputs[0].shape[0]
        self.asked.append(rows)
        if rows > self.most:
            self.released.wait(60)
        output = service_pb2.ModelInferResponse.InferOutputTensor
        features = output(name="features", datatype="FP32", shape=[rows, self.width])
        contents = [np.ones((rows, self.width), np.float32).tobytes()]
        return service_pb2.ModelInferResponse(
            model_version=self.version, outputs=[features], raw_output_contents=contents
        )


@contextmanager
def serving() -> Iterator[tuple[Scripted, str]]:
    """The model and the address that it is served at."""
    servicer = Scripted()
    running = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        servicer.released.set()
        running.stop(None).wait()
