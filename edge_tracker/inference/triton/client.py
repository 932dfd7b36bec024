"""Models on an NVIDIA Triton Inference Server, over gRPC."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_tracker.errors import ConfigError, ModelError, ServerError
from edge_tracker.inference.availability import DEADLINE_MS, START_S, Availability
from edge_tracker.inference.manifest import METADATA_KEY, ModelManifest, difference
from edge_tracker.inference.model import Feeds, Outputs, TensorSpec, signature
from edge_tracker.inference.triton.address import Address

IN_FLIGHT = 4  # most batches of a frame in flight at once
GRACE_S = 0.05  # gRPC itself ends a call at its deadline; its thread gets this long to report it

_DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}

# Each client has its own connection: one to a server that hangs or was cut off is closed, not waited for. It ignores
# proxies from the environment, which are for the Web.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


@dataclass(frozen=True)
class _Facts:
    """The server's description of a model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    manifest: ModelManifest | None
    batch: int | None
    version: str


@dataclass(frozen=True)
class _Link:
    """A connection, and the model at its other end."""

    client: Any
    facts: _Facts

    def close(self) -> None:
        self.client.close()


class _Request:
    """A request in flight."""

    def __init__(self, link: _Link, rows: int) -> None:
        self.link, self.rows = link, rows
        self.context: Any = None
        self.result: Any = None
        self.error: BaseException | None = None
        self._done = threading.Event()

    def end(self, result: Any, error: BaseException | None) -> None:
        """Called by gRPC's thread."""
        self.result, self.error = result, error
        self._done.set()

    def wait(self, until: float) -> bool:
        """Wait until a time of `time.monotonic`, or slightly longer; if it has not ended then, cancel it: False."""
        if self._done.wait(max(0.0, until - time.monotonic()) + GRACE_S):
            return True
        if self.context is not None:
            self.context.cancel()
        return False


def import_client() -> ModuleType:
    """Triton's gRPC client.

    Raises:
        ConfigError: it is not installed.
    """
    # gRPC's core would print its own lines about each failed connection; they are logged here where they matter.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import tritonclient.grpc as client
    except ImportError as error:
        raise ConfigError(
            f"a model on a Triton server needs tritonclient ({error}): pip install 'edge-tracker[triton]'"
        ) from None
    return client


class TritonModel:
    """A model on a Triton server. See `edge_tracker.inference.model.Model` for the attributes.

    Args:
        uri: `triton://HOST:PORT/MODEL`, gRPC's port, optionally with `/VERSION`.
        deadline: time limit for all batches of one frame together, seconds.
        required: False if the server may be unavailable now. Then call `availability.when_up`.

    Attributes:
        address: the model's address.

    Raises:
        ConfigError: not a valid address, or tritonclient is not installed.
        ServerError: no server answers there, or it has no such model.
        ModelError: the model cannot be used.
    """

    device = "triton"
    path: Path | None = None

    def __init__(self, uri: str, deadline: float = DEADLINE_MS / 1000, *, required: bool = True) -> None:
        self.address = Address.parse(uri)
        self.name = str(self.address)
        self.short_name = self.address.model
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.metadata: dict[str, str] = {}
        self.manifest: ModelManifest | None = None
        self.batch_limit: int | None = None
        self._grpc = import_client()
        self._facts: _Facts | None = None  # of the first connection
        self.availability: Availability[_Link] = Availability(self, deadline)
        self.availability.start(required=required)

    # ---- running -----------------------------------------------------------------------------------------------------

    def run(self, feeds: Feeds) -> Outputs:
        """Compute all outputs from one array per input. As this is not part of a frame, it may take `START_S`.

        Raises:
            ServerError: the server is unavailable, or does not answer in time.
        """
        answer = next(self._stream([feeds], max(START_S, self.availability.deadline)))
        if answer is None:
            raise ServerError(f"{self.name}: {self.availability.status.problem or 'away'}")
        return answer

    def stream(self, batches: Iterable[Feeds]) -> Iterator[Outputs | None]:
        """The outputs of each batch, in order; None for one that was lost. All share one deadline.

        The next batch is fetched while earlier ones are in flight. The arrays of one may be overwritten as soon as the
        next is fetched.
        """
        yield from self._stream(batches, self.availability.deadline)

    def _stream(self, batches: Iterable[Feeds], limit: float) -> Iterator[Outputs | None]:
        until = time.monotonic() + limit
        calls: deque[_Request | None] = deque()
        try:
            for feeds in batches:
                if len(calls) == IN_FLIGHT:
                    yield self._answer(calls.popleft(), until)
                calls.append(self._send(feeds, until))
            while calls:
                yield self._answer(calls.popleft(), until)
        finally:
            for call in calls:
                if call is not None and call.context is not None:
                    call.context.cancel()

    def _send(self, feeds: Feeds, until: float) -> _Request | None:
        """Send a batch; None if the server is unavailable or the deadline is over."""
        link = self.availability.connection()
        if link is None:
            return None
        left = until - time.monotonic()
        if left <= 0:
            self.availability.lose(link, self._late())
            return None
        try:
            return self._request(link, feeds, left)
        except Exception as error:  # tritonclient's and gRPC's have no common base
            self.availability.lose(link, _reason(error))
            return None

    def _request(self, link: _Link, feeds: Feeds, timeout: float) -> _Request:
        inputs = []
        for name, array in feeds.items():
            tensor = self._grpc.InferInput(name, list(array.shape), _NAMES[array.dtype])
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            inputs.append(tensor)
        wanted = [self._grpc.InferRequestedOutput(spec.name) for spec in link.facts.outputs]
        call = _Request(link, len(next(iter(feeds.values()))))
        call.context = link.client.async_infer(
            self.address.model,
            inputs,
            callback=call.end,
            model_version=self.address.version,
            outputs=wanted,
            client_timeout=timeout,
        )
        return call

    def _answer(self, call: _Request | None, until: float) -> Outputs | None:
        """The outputs of a batch in flight; None if it is lost."""
        if call is None:
            return None
        if not call.wait(until) or _status_of(call.error) == "DEADLINE_EXCEEDED":
            reason = self._late()
        elif call.error is not None:
            reason = _reason(call.error)
        else:
            try:
                return _outputs(call)
            except ModelError as error:
                reason = str(error)
        self.availability.lose(call.link, reason)
        return None

    def _late(self) -> str:
        return f"no answer within {1000 * self.availability.deadline:.0f} ms"

    # ---- connecting --------------------------------------------------------------------------------------------------

    def connect(self, timeout: float, trial: float) -> _Link:
        """As `edge_tracker.inference.availability.Connects.connect`."""
        client = self._grpc.InferenceServerClient(f"{self.address.host}:{self.address.port}", channel_args=_CHANNEL)
        try:
            facts = self._ask(client, timeout)
            if self._facts is not None:
                _check_same(self.name, self._facts, facts)
            link = _Link(client, facts)
            self._try_out(link, trial)
        except BaseException:
            client.close()
            raise
        if self._facts is None:
            self.inputs, self.outputs, self.batch_limit = facts.inputs, facts.outputs, facts.batch
            self.metadata, self.manifest = facts.metadata, facts.manifest
            self._facts = facts
        return link

    def forget(self) -> None:
        """As `edge_tracker.inference.availability.Connects.forget`."""
        self._facts = None

    def _ask(self, client: Any, timeout: float) -> _Facts:
        """Ask the server for its description of the model."""
        where = (self.address.model, self.address.version)
        try:
            metadata = client.get_model_metadata(*where, client_timeout=timeout)
            config = client.get_model_config(*where, client_timeout=timeout).config
        except Exception as error:  # tritonclient's and gRPC's have no common base
            raise ServerError(f"{self.name}: {_reason(error)}") from error
        texts = {key: value.string_value for key, value in config.parameters.items()}
        text = texts.get(METADATA_KEY)
        return _Facts(
            inputs=tuple(self._spec(tensor) for tensor in metadata.inputs),
            outputs=tuple(self._spec(tensor) for tensor in metadata.outputs),
            metadata=texts,
            manifest=None if text is None else ModelManifest.from_json(text, f"{self.name}, config.pbtxt"),
            batch=config.max_batch_size or None,
            version=max(metadata.versions, key=int, default=""),
        )

    def _spec(self, tensor: Any) -> TensorSpec:
        if tensor.datatype not in _DTYPES:
            raise ModelError(f"{self.name}: tensor {tensor.name} has element type {tensor.datatype}, not supported")
        shape = tuple(None if size < 0 else int(size) for size in tensor.shape)
        return TensorSpec(tensor.name, shape, np.dtype(_DTYPES[tensor.datatype]))

    def _try_out(self, link: _Link, timeout: float) -> None:
        """Run the model on zeros: a server that answers questions may still be unable to run it in time."""
        inputs = link.facts.inputs
        if any(None in spec.shape[1:] for spec in inputs):
            return  # the user of the model knows the sizes, and runs it next
        feeds = {spec.name: np.zeros([size or 1 for size in spec.shape], spec.dtype) for spec in inputs}
        try:
            call = self._request(link, feeds, timeout)
        except Exception as error:  # as above
            raise ServerError(f"{self.name}: {_reason(error)}") from error
        if not call.wait(time.monotonic() + timeout) or _status_of(call.error) == "DEADLINE_EXCEEDED":
            raise ServerError(f"{self.name}: no answer within {1000 * timeout:.0f} ms")
        if call.error is not None:
            raise ServerError(f"{self.name}: {_reason(call.error)}") from call.error
        try:
            _outputs(call)
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from error

    def close(self) -> None:
        """Close the connection. Nothing can run afterwards."""
        self.availability.close()


def _check_same(name: str, before: _Facts, now: _Facts) -> None:
    """Refuse another model under the same name.

    Raises:
        ModelError: it is another model; with the difference.
    """
    if (before.inputs, before.outputs) != (now.inputs, now.outputs):
        raise ModelError(
            f"{name}: another model is served there now ({signature(now.inputs, now.outputs)}; it had "
            f"{signature(before.inputs, before.outputs)}); restart to use it"
        )
    if (now.batch or math.inf) < (before.batch or math.inf):
        raise ModelError(f"{name}: takes {now.batch} rows at once now, and took {before.batch}; restart to use it")
    if before.manifest is not None and now.manifest is not None:
        other = difference(before.manifest, now.manifest)
        if other:
            raise ModelError(f"{name}: another model is served there now ({other}); restart to use it")


def _outputs(call: _Request) -> Outputs:
    """The arrays of an answer.

    Raises:
        ModelError: they have another shape or type than the model's outputs, or come from another version of it.
    """
    known, version = call.link.facts, call.result.get_response().model_version
    if version != known.version:
        raise ModelError(f"version {version} of the model is served now, and not {known.version}")
    outputs = []
    for spec in known.outputs:
        array = call.result.as_numpy(spec.name)
        if array is None or not _fits(spec, array, call.rows):
            given = "nothing" if array is None else f"{array.shape} {array.dtype}"
            raise ModelError(f"gave {given} instead of {spec}")
        outputs.append(array.copy())  # the original is read-only and keeps the whole message in memory
    return outputs


def _fits(spec: TensorSpec, array: npt.NDArray[Any], rows: int) -> bool:
    """True if an output has the shape and type expected for this number of input rows."""
    if array.dtype != spec.dtype or array.ndim != len(spec.shape):
        return False
    sizes = zip(spec.shape[1:], array.shape[1:], strict=True)
    first = not spec.shape or len(array) == (spec.shape[0] or rows)
    return first and all(known in (None, size) for known, size in sizes)


def _status_of(error: BaseException | None) -> str:
    """The gRPC status in an error of tritonclient, such as "UNAVAILABLE"; "" if it has none."""
    status = getattr(error, "status", None)
    return str(status() if callable(status) else "").removeprefix("StatusCode.")


def _reason(error: BaseException) -> str:
    """The reason a request failed, on one line."""
    status = _status_of(error)
    text = ""
    with suppress(AttributeError):
        text = error.message()  # type: ignore[attr-defined]
    text = " ".join(str(text or error or type(error).__name__).split())
    if status == "DEADLINE_EXCEEDED":
        return "no answer in time"
    if status == "UNAVAILABLE" and "connect" in text.lower():
        why = text.rpartition("last error: ")[2].rpartition("remote host: ")[2]
        return f"no server answers there: {why}"
    return text
