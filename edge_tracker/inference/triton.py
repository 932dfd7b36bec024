"""Models on an NVIDIA Triton Inference Server, over gRPC, with a deadline, and ways to go on while it is away."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_tracker.errors import ConfigError, ModelError, ServerError
from edge_tracker.inference.manifest import METADATA_KEY, ModelManifest, difference
from edge_tracker.inference.model import TensorSpec, signature

logger = logging.getLogger(__name__)

Feeds = Mapping[str, npt.NDArray[Any]]
Outputs = list[npt.NDArray[Any]]

FORM = "triton://HOST:PORT/MODEL or triton://HOST:PORT/MODEL/VERSION"
DEADLINE_MS = 250
IN_FLIGHT = 4  # batches of a frame that are on the way at once
START_S = 10.0  # for the first contact: a server runs a model slowly the first time
PROBE_S = 1.0  # for what is asked of a server that was away
# Between probes of a server that is away: the first, and the longest.
PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
# One that fails again within this time, since it is too slow for whole frames, is left alone for longer each time, at
# most so long: each try costs a frame its deadline, and the log two lines.
STEADY_S, LEFT_ALONE_S = 10.0, 60.0
GRACE_S = 0.05  # gRPC itself ends a call at its deadline; this is for its thread to say so

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

_ADDRESS = re.compile(
    r"triton://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})/(?P<model>[\w.-]+)(?:/(?P<version>\d+))?"
)

# Each client has a connection of its own: that of a server that hangs, or was cut off, is given up, not waited for. And
# a straight one: proxies in the environment are for the Web.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


def is_served(model: object) -> bool:
    """Whether a model is given as the address of one on a server."""
    return isinstance(model, str) and model.lower().startswith("triton:")


@dataclass(frozen=True)
class Address:
    """Where a model is served: `triton://HOST:PORT/MODEL`, with `/VERSION` if it has to be that one."""

    host: str
    port: int
    model: str
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Take an address apart.

        Raises:
            ConfigError: it is not one.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ConfigError(f"{text}: not the address of a model; expected {FORM}, gRPC's port (8001 as a rule)")
        return cls(match["host"], int(match["port"]), match["model"], match["version"] or "")

    def __str__(self) -> str:
        version = f"/{self.version}" if self.version else ""
        return f"triton://{self.host}:{self.port}/{self.model}{version}"


@dataclass
class ServerStatus:
    """How it is with a served model. Each figure has one writer; readers take what is there.

    Attributes:
        name: its address.
        up: whether it is asked at present.
        problem: why it is not; None while it is.
        outages: how often it went away.
        lost: crops, or frames, that it was to see and nobody saw.
        fallback: those that the fallback saw instead.
    """

    name: str
    up: bool = False
    problem: str | None = None
    outages: int = 0
    lost: int = 0
    fallback: int = 0


@dataclass(frozen=True)
class _Facts:
    """What the server says of a model."""

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


class _Call:
    """A request on its way."""

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
        """Whether it ended by then, or soon after."""
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
    # gRPC's core would write its own lines about each failed connection; what matters is logged here.
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

    When a request fails or does not come back in time the model counts as away. Then nothing is sent: `stream` gives
    None at once, and a thread tries for it until the server answers in time again, with the same model.

    Args:
        uri: `triton://HOST:PORT/MODEL`, gRPC's port, optionally with `/VERSION`.
        deadline: seconds that the batches of one frame may take together.
        required: False if the server may be away now. Then call `when_up`.

    Attributes:
        batch: rows that it takes at once at most; None for no limit.
        deadline: seconds.
        status: whether it is up, and what was lost.
        meanwhile: what happens while it is away, in words, for the log.

    Raises:
        ConfigError: not such an address, or tritonclient is not installed.
        ServerError: no server answers there, or it has no such model.
        ModelError: a model that cannot be used.
    """

    device = "triton"
    path: Path | None = None

    def __init__(self, uri: str, deadline: float = DEADLINE_MS / 1000, *, required: bool = True) -> None:
        self.address = Address.parse(uri)
        self.name = str(self.address)
        self.deadline = deadline
        self.status = ServerStatus(self.name)
        self.meanwhile = "what it was to see counts as not seen"
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.metadata: dict[str, str] = {}
        self.manifest: ModelManifest | None = None
        self.batch: int | None = None
        self._grpc = import_client()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._link: _Link | None = None
        self._facts: _Facts | None = None  # of the first connection
        self._prepare: Callable[[], None] | None = None
        self._seeker: threading.Thread | None = None
        self._answers = False  # also while `prepare` is at work, before `status` says so
        self._pause = PAUSE_S
        self._since = time.monotonic()
        try:
            self._connect(START_S, START_S)
        except ServerError as error:
            if required:
                raise ServerError(f"{error}; start it and load the model, or give a local model as fallback") from error
            self.status.problem = _after_name(error, self.name)

    def when_up(self, prepare: Callable[[], None]) -> None:
        """Call `prepare` as soon as the model can be run: now, or later, in another thread, until it succeeds.

        Raises:
            ModelError, ConfigError: what `prepare` raises, if it is called now.
        """
        if self.status.up:
            prepare()
            return
        self._prepare = prepare
        self.status.outages += 1
        logger.warning("%s: away (%s); %s", self.name, self.status.problem, self.meanwhile)
        self._seek()

    # ---- running -----------------------------------------------------------------------------------------------------

    def run(self, feeds: Feeds) -> Outputs:
        """Compute all outputs from one array per input. Not part of a frame, it may take `START_S`.

        Raises:
            ServerError: the server is away, or does not answer in time.
        """
        answer = next(self._stream([feeds], max(START_S, self.deadline)))
        if answer is None:
            raise ServerError(f"{self.name}: {self.status.problem or 'away'}")
        return answer

    def stream(self, batches: Iterable[Feeds]) -> Iterator[Outputs | None]:
        """The outputs of each batch, in order; None for one that was lost. All share one deadline.

        The next batch is taken while earlier ones are on the way; its arrays may be written again after that.
        """
        yield from self._stream(batches, self.deadline)

    def _stream(self, batches: Iterable[Feeds], limit: float) -> Iterator[Outputs | None]:
        until = time.monotonic() + limit
        calls: deque[_Call | None] = deque()
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

    def _send(self, feeds: Feeds, until: float) -> _Call | None:
        """Put a batch on its way; None where that is no use."""
        with self._lock:
            link, answers = self._link, self._answers
        if not answers or link is None:
            return None
        left = until - time.monotonic()
        if left <= 0:
            self._lose(link, self._late())
            return None
        try:
            return self._request(link, feeds, left)
        except Exception as error:  # tritonclient's and gRPC's have no common base
            self._lose(link, _reason(error))
            return None

    def _request(self, link: _Link, feeds: Feeds, timeout: float) -> _Call:
        inputs = []
        for name, array in feeds.items():
            tensor = self._grpc.InferInput(name, list(array.shape), _NAMES[array.dtype])
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            inputs.append(tensor)
        wanted = [self._grpc.InferRequestedOutput(spec.name) for spec in link.facts.outputs]
        call = _Call(link, len(next(iter(feeds.values()))))
        call.context = link.client.async_infer(
            self.address.model,
            inputs,
            callback=call.end,
            model_version=self.address.version,
            outputs=wanted,
            client_timeout=timeout,
        )
        return call

    def _answer(self, call: _Call | None, until: float) -> Outputs | None:
        """The outputs of a batch on its way; None if it is lost."""
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
        self._lose(call.link, reason)
        return None

    def _late(self) -> str:
        return f"no answer within {1000 * self.deadline:.0f} ms"

    # ---- away, and back ----------------------------------------------------------------------------------------------

    def refuse(self, reason: str) -> None:
        """Count it as away: what it gives is of no use."""
        with self._lock:
            link = self._link
        if link is not None:
            self._lose(link, reason)

    def _lose(self, link: _Link, reason: str) -> None:
        """A request has failed."""
        with self._lock:
            if link is not self._link or not self._answers:
                return
            self._answers = False
            self.status.problem = reason
            if not self.status.up:  # whoever prepares is told, and tries again
                return
            self.status.up = False
            self.status.outages += 1
            steady = time.monotonic() - self._since >= STEADY_S
            self._pause = PAUSE_S if steady else min(2 * self._pause, LEFT_ALONE_S)
            self._since = time.monotonic()
        logger.warning("%s: away (%s); %s", self.name, reason, self.meanwhile)
        self._seek()

    def _seek(self) -> None:
        if not self._closed.is_set():
            self._seeker = threading.Thread(target=self._win_back, name=f"seek {self.name}", daemon=True)
            self._seeker.start()

    def _win_back(self) -> None:
        """Try until the model answers again."""
        pause, since, refused = self._pause, self._since, ""
        while not self._closed.wait(pause):
            try:
                self._connect(max(PROBE_S, self.deadline), self.deadline)
            except ServerError as error:
                logger.debug("%s", error)
                self.status.problem = _after_name(error, self.name)
            except Exception as error:  # a model that cannot be used, for whatever reason: not at the price of the run
                self.status.problem = _after_name(error, self.name)
                if str(error) != refused:
                    refused = str(error)
                    logger.error("%s: answers, but is not used: %s", self.name, self.status.problem)
            else:
                lost, instead = self.status.lost, self.status.fallback
                by = f", {instead} seen by the fallback" if instead else ""
                away = time.monotonic() - since
                logger.warning("%s: back after %.1f s; %d lost so far%s", self.name, away, lost, by)
                return
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _connect(self, timeout: float, trial: float) -> None:
        """Take up the model with a connection of its own.

        Args:
            timeout: seconds for each question about the model.
            trial: seconds that it may take to run.

        Raises:
            ServerError: no answer.
            ModelError: a model that cannot be used, or not the one it was.
        """
        client = None
        try:
            client = self._grpc.InferenceServerClient(f"{self.address.host}:{self.address.port}", channel_args=_CHANNEL)
            facts = self._ask(client, timeout)
            if self._facts is not None:
                _check_same(self.name, self._facts, facts)
            link = _Link(client, facts)
            self._try_out(link, trial)
            if self._facts is None:
                self.inputs, self.outputs, self.batch = facts.inputs, facts.outputs, facts.batch
                self.metadata, self.manifest = facts.metadata, facts.manifest
                self._facts = facts
            with self._lock:
                if self._closed.is_set():
                    raise ServerError(f"{self.name}: closed")
                old, self._link, self._answers = self._link, link, True
            client = None if old is None else old.client  # what is still under way on it is lost with it
            if self._prepare is not None:
                try:
                    self._prepare()
                except BaseException:
                    self._answers = False
                    self._facts = None  # nobody has used this model: another may come
                    raise
                self._prepare = None
            with self._lock:
                if not self._answers:
                    raise ServerError(f"{self.name}: {self.status.problem}")
                self.status.problem, self._since, self.status.up = None, time.monotonic(), True
        finally:
            if client is not None:
                client.close()

    def _ask(self, client: Any, timeout: float) -> _Facts:
        """What the server says of the model."""
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
        """Run the model on zeros: a server may answer questions and not be able to run it, or not in time."""
        inputs = link.facts.inputs
        if any(None in spec.shape[1:] for spec in inputs):
            return  # whoever knows the sizes runs it next
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
        """Give up the connection. Nothing can be run afterwards."""
        self._closed.set()
        if self._seeker is not None and self._seeker is not threading.current_thread():
            self._seeker.join(2 * PROBE_S)
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.client.close()


def _check_same(name: str, before: _Facts, now: _Facts) -> None:
    """Refuse another model under the same name.

    Raises:
        ModelError: says what is different.
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


def _outputs(call: _Call) -> Outputs:
    """The arrays of an answer.

    Raises:
        ModelError: they are not what the model is known to give, or another version of it gave them.
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
        outputs.append(array.copy())  # else it could not be written, and would hold the whole message
    return outputs


def _fits(spec: TensorSpec, array: npt.NDArray[Any], rows: int) -> bool:
    """Whether an output is what the model is known to give, for so many rows of input."""
    if array.dtype != spec.dtype or array.ndim != len(spec.shape):
        return False
    sizes = zip(spec.shape[1:], array.shape[1:], strict=True)
    first = not spec.shape or len(array) == (spec.shape[0] or rows)
    return first and all(known in (None, size) for known, size in sizes)


def _status_of(error: BaseException | None) -> str:
    """gRPC's status in an error of tritonclient's, such as "UNAVAILABLE"; "" if it has none."""
    status = getattr(error, "status", None)
    return str(status() if callable(status) else "").removeprefix("StatusCode.")


def _reason(error: BaseException) -> str:
    """Why a request failed, on one line."""
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


def _after_name(error: BaseException, name: str) -> str:
    """The message of an error without the address at its front."""
    return str(error).removeprefix(f"{name}: ") or type(error).__name__
