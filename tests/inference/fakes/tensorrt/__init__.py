"""A strict TensorRT for machines without one: the API of one version, with just enough behaviour to build and run.

FAKE_TENSORRT says which version (a file of ../tensorrt_api). Every class has exactly the attributes, enum members and
signatures that the real bindings of that version have; whatever is not there raises. What the real library does on
failure is done here too: it logs an error and returns None or False. An "engine" holds its ONNX file and runs it with
ONNX Runtime on the fake CUDA driver's memory, as work on its stream.

FAKE_TENSORRT_FAIL, a list of: build, context, execute, profile, address, shape, cache. FAKE_BUILD_LOG, a file that
gets a line for each build. FAKE_BUILD_SECONDS, how long a build takes. FAKE_BUILD_UNTIL, a
file that it waits for. FAKE_DLA_CORES, how many there are.
"""

import ctypes
import functools
import inspect
import json
import os
import re
import time
import weakref
from pathlib import Path

import numpy as np

_API = json.loads(
    (Path(__file__).parent.parent / "tensorrt_api" / f"{os.environ['FAKE_TENSORRT']}.json").read_text(encoding="utf-8")
)
__version__ = _API["version"]
_plugins = False


def _failing(what):
    return what in os.environ.get("FAKE_TENSORRT_FAIL", "").split(",")


def _gpu():
    return os.environ.get("FAKE_GPU_NAME", "Orin"), os.environ.get("FAKE_GPU_CAPABILITY", "8.7")


# ---- the API: names and signatures -----------------------------------------------------------------------------------


def _enum(name, members):
    class Enum:
        def __init__(self, member, value):
            self.name, self.value = member, value

        def __int__(self):
            return self.value

        def __repr__(self):
            return f"{name}.{self.name}"

    Enum.__name__ = name
    for value, member in enumerate(members):
        setattr(Enum, member, Enum(member, value))
    return Enum


def _check_type(where, kind, value):
    kind = kind.strip()
    if value is None and "=" not in kind and kind not in ("None",):
        raise TypeError(f"{where}: None is not a {kind}")
    if kind in ("int", "typing.SupportsInt") and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
        raise TypeError(f"{where}: {value!r} is not an int")
    if kind == "str" and not isinstance(value, str):
        raise TypeError(f"{where}: {value!r} is not a str")
    if kind == "bool" and not isinstance(value, bool):
        raise TypeError(f"{where}: {value!r} is not a bool")
    if kind in ("buffer", "Buffer"):
        memoryview(value)
    if kind in _API["classes"] and kind != "Dims" and not isinstance(value, globals()[kind]):
        raise TypeError(f"{where}: {value!r} is not a {kind}")


def _checked(cls, name, method, line):
    """The method, taking only what its line of documentation says it takes."""
    found = re.fullmatch(rf"{name}\(self: [\w:]+(?:, (.*))?\) -> .*", line)
    if not found:  # overloads: "name(*args, **kwargs)"
        return method
    parts = re.split(r", (?=\w+: )", found.group(1)) if found.group(1) else []
    kinds = [(part.split(": ")[0], *part.split(": ", 1)[1].split(" = ")) for part in parts]
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for parameter, _, *default in kinds:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(
            inspect.Parameter(parameter, kind, default=default[0] if default else inspect.Parameter.empty)
        )
    signature = inspect.Signature(
        [p.replace(default=inspect.Parameter.empty) if i == 0 else p for i, p in enumerate(parameters)]
    )

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        for parameter, kind, *_ in kinds:
            if parameter in bound.arguments:
                _check_type(f"{cls.__name__}.{name}: {parameter}", kind, bound.arguments[parameter])
        return method(self, *args, **kwargs)

    return call


def _version_of(cls):
    """The class as this version has it: without what it lacks, closed to what it does not know, checking arguments."""
    listed = _API["classes"].get(cls.__name__)
    if listed is None:
        return None
    for name in [n for n in vars(cls) if not n.startswith("_") and n not in listed["attrs"]]:
        delattr(cls, name)
    for name, line in listed.get("signatures", {}).items():
        if name in vars(cls):
            setattr(cls, name, _checked(cls, name, vars(cls)[name], line))

    def set_attribute(self, name, value):
        closed = type(self) is cls and not name.startswith("_")
        if closed and (name not in listed["attrs"] or name in listed.get("signatures", {})):
            raise AttributeError(f"{cls.__name__} of TensorRT {__version__} has no {name!r} to set")
        object.__setattr__(self, name, value)

    cls.__setattr__ = set_attribute
    return cls


for _name, _listed in _API["classes"].items():
    if "enum" in _listed:
        globals()[_name] = _enum(_name, _listed["enum"])
_Severity = _enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])


def _log(logger, severity, message):
    logger.log(getattr(_Severity, severity), message)


# ---- behaviour -------------------------------------------------------------------------------------------------------


class ILogger:
    Severity = _Severity

    def __init__(self):
        self._ready = True

    def log(self, severity, msg):
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self):
        self._ready = True

    def phase_start(self, phase_name, parent_phase, num_steps): ...
    def step_complete(self, phase_name, step): ...
    def phase_finish(self, phase_name): ...


def init_libnvinfer_plugins(logger, namespace):
    global _plugins
    _check_type("init_libnvinfer_plugins: namespace", "str", namespace)
    _plugins = True
    return True


def _need_plugins(logger, what):
    if __version__.startswith("8.") and not _plugins:
        _log(logger, "ERROR", f"{what}: no plugin InstanceNormalization_TRT in the registry")
        return False
    return True


class IHostMemory(bytes):
    @property
    def nbytes(self):
        return len(self)


class ITimingCache:
    def serialize(self):
        return IHostMemory(json.dumps([__version__, *_gpu()]).encode())


class ITensor: ...


class _Layer:
    """ILayer is in no list; only its name is used."""

    def __init__(self, node):
        self.name, self.op_type = node.name, node.op_type


class INetworkDefinition:
    @property
    def num_inputs(self):
        return len(self._inputs)

    def get_input(self, index):
        return self._inputs[index]

    @property
    def num_layers(self):
        return len(self._layers)

    def get_layer(self, index):
        return self._layers[index]


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class IBuilderConfig:
    def __init__(self, logger):
        self._logger, self._flags, self._profiles, self._pools, self._cache = logger, set(), [], {}, None

    def set_flag(self, flag):
        self._flags.add(flag.name)

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool.name] = pool_size

    def add_optimization_profile(self, profile):
        if _failing("profile") or not all(lo <= mid <= hi for lo, mid, hi in profile._shapes.values()):
            _log(self._logger, "ERROR", "the profile's shapes are out of order")
            return -1
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        cache = ITimingCache()
        cache._content = bytes(serialized_timing_cache)
        return None if _failing("cache") and cache._content else cache

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache._content and json.loads(cache._content) != [__version__, *_gpu()]:
            _log(self._logger, "ERROR", "the timing cache is another device's")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache

    def can_run_on_DLA(self, layer):
        return layer.op_type == "Conv"


class Builder:
    def __init__(self, logger):
        if not getattr(logger, "_ready", False) or not isinstance(logger, ILogger):
            raise TypeError("ILogger.__init__() must be called when overriding __init__")
        self._logger = logger

    @property
    def num_DLA_cores(self):
        return int(os.environ.get("FAKE_DLA_CORES", "0"))

    def create_network(self, flags=0):
        known = {
            1 << int(getattr(globals()["NetworkDefinitionCreationFlag"], n)): n
            for n in _API["classes"]["NetworkDefinitionCreationFlag"]["enum"]
        }
        network = INetworkDefinition()
        network._flags = {name for bit, name in known.items() if flags & bit}
        network._inputs, network._layers, network._model = [], [], b""
        return network

    def create_builder_config(self):
        return IBuilderConfig(self._logger)

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        typed = "STRONGLY_TYPED" in network._flags
        wrong = ""
        if typed and config._flags & {"FP16", "INT8"}:
            wrong = "precision flags are not allowed in a strongly typed network"
        dynamic = {tensor.name for tensor in network._inputs if -1 in tensor.shape}
        if dynamic and (not config._profiles or dynamic - set(config._profiles[0])):
            wrong = f"no optimization profile for {sorted(dynamic)}"
        if getattr(config, "default_device_type", None) is not None and "GPU_FALLBACK" not in config._flags:
            wrong = "a layer cannot run on DLA, and GPU fallback is not allowed"
        if _failing("build"):
            wrong = "Could not find any implementation for node conv"
        if wrong:
            return _log(self._logger, "ERROR", wrong)
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building engine", None, 3)
            if not all(monitor.step_complete("Building engine", step) for step in range(3)):
                return _log(self._logger, "ERROR", "the build was cancelled")
            monitor.phase_finish("Building engine")
        time.sleep(float(os.environ.get("FAKE_BUILD_SECONDS", "0")))
        while "FAKE_BUILD_UNTIL" in os.environ and not os.path.exists(os.environ["FAKE_BUILD_UNTIL"]):
            time.sleep(0.01)
        if "FAKE_BUILD_LOG" in os.environ:
            with open(os.environ["FAKE_BUILD_LOG"], "a") as file:
                file.write(f"{os.getpid()}\n")
        level = getattr(config, "hardware_compatibility_level", None)
        head = {
            "tensorrt": __version__,
            "gpu": _gpu(),
            "typed": typed,
            "flags": sorted(config._flags),
            "profile": config._profiles[0] if config._profiles else {},
            "workspace": config._pools.get("WORKSPACE"),
            "level": getattr(config, "builder_optimization_level", None),
            "compatible": level.name if level is not None else "NONE",
            "dla": getattr(config, "DLA_core", None),
            "half": network._half,
            "size": len(network._model),
        }
        return IHostMemory(b"fake" + json.dumps(head).encode() + b"\n" + network._model)


class ParserError:
    def desc(self):
        return self._text

    def node(self):
        return 7


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._logger, self._errors = network, logger, []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]

    def _fail(self, text):
        error = ParserError()
        error._text = text
        self._errors.append(error)
        return False

    def parse_from_file(self, model):
        import onnx

        if not self._network._flags & {"STRONGLY_TYPED", "EXPLICIT_BATCH"} and __version__.startswith("8."):
            return self._fail("the network must be explicit batch")
        if not _need_plugins(self._logger, "parsing"):
            return False
        try:
            graph = onnx.load(model).graph
            onnx.checker.check_model(model)
        except Exception:
            return self._fail("Failed to parse ONNX model from file")
        for value in graph.input:
            tensor = ITensor()
            tensor._set(value.name, value.type.tensor_type)
            self._network._inputs.append(tensor)
        self._network._layers = [_Layer(node) for node in graph.node]
        self._network._half = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)
        self._network._model = Path(model).read_bytes()
        return True


def _set(self, name, kind):
    self.name = name
    self.shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)


ITensor._set = _set


class Runtime:
    def __init__(self, logger):
        self._logger, self.engine_host_code_allowed = logger, False

    def deserialize_cuda_engine(self, serialized_engine):
        data = bytes(serialized_engine)
        if not _need_plugins(self._logger, "loading"):
            return None
        try:
            head, model = data.removeprefix(b"fake").split(b"\n", 1)
            head = json.loads(head)
            assert data[:4] == b"fake"
            assert len(model) == head["size"]
        except (ValueError, AssertionError):
            return _log(self._logger, "ERROR", "Serialization assertion plan.header.size == blobSize failed")
        if head["tensorrt"] != __version__ and not (
            "VERSION_COMPATIBLE" in head["flags"] and self.engine_host_code_allowed
        ):
            return _log(self._logger, "ERROR", f"The engine plan file is for {head['tensorrt']}, not {__version__}")
        if head["gpu"] != list(_gpu()) and head["compatible"] == "NONE":
            return _log(self._logger, "ERROR", "The engine plan file is not compatible with this GPU")
        if not _has_context():
            return _log(self._logger, "ERROR", "no CUDA context is current")
        engine = ICudaEngine()
        engine._open(self, head, model)
        return engine


class ICudaEngine:
    @property
    def num_io_tensors(self):
        return len(self._tensors)

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        return getattr(globals()["TensorIOMode"], "INPUT" if name in self._is_input else "OUTPUT")

    def get_tensor_shape(self, name):
        return self._tensors[name][1]

    def get_tensor_dtype(self, name):
        return getattr(globals()["DataType"], self._tensors[name][0])

    def get_tensor_profile_shape(self, name, profile_index):
        return self._head["profile"][name]

    def create_execution_context(self):
        if _failing("context"):
            return _log(self._runtime()._logger, "ERROR", "Cuda Runtime (out of memory)")
        context = IExecutionContext()
        context._engine, context._addresses, context._shapes = weakref.ref(self), {}, {}
        return context


_KINDS = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}
_DTYPES = {"UINT8": np.uint8, "FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}


def _open(self, runtime, head, model):
    import onnxruntime

    self._runtime, self._head = weakref.ref(runtime), head
    self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
    self._is_input = {tensor.name for tensor in inputs}
    self._tensors = {
        t.name: (_KINDS[t.type], tuple(s if isinstance(s, int) else -1 for s in t.shape)) for t in [*inputs, *outputs]
    }


ICudaEngine._open = _open


class IExecutionContext:
    def _alive(self):
        engine = self._engine()
        if engine is None or engine._runtime() is None:
            raise RuntimeError("the engine or the runtime is gone: a real process would crash here")
        return engine

    def set_input_shape(self, name, shape):
        low, _, high = self._alive().get_tensor_profile_shape(name, 0)
        shape = tuple(shape)
        fits = all(lo <= size <= hi for lo, size, hi in zip(low, shape, high, strict=True))
        self._shapes[name] = shape
        return fits and not _failing("shape")

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return name in self._alive()._tensors and not _failing("address")

    def execute_async_v3(self, stream_handle):
        engine = self._alive()
        if _failing("execute") or set(self._addresses) != set(engine._tensors) or not _has_context():
            _log(engine._runtime()._logger, "ERROR", "enqueueV3 failed")
            return False
        shapes = {n: self._shapes.get(n, engine._tensors[n][1]) for n in engine._is_input}
        addresses = dict(self._addresses)

        def compute(_):
            feeds = {n: _device(addresses[n], shapes[n], engine._tensors[n][0]).copy() for n in engine._is_input}
            for tensor, value in zip(engine._session.get_outputs(), engine._session.run(None, feeds), strict=True):
                _device(addresses[tensor.name], value.shape, engine._tensors[tensor.name][0])[...] = value
            return 0

        call = _Call(compute)
        _calls.append(call)
        return _driver().fake_enqueue(ctypes.c_void_p(stream_handle), call, None) == 0


# ---- the fake CUDA driver --------------------------------------------------------------------------------------------

_Call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_calls = []  # must outlive their turn on the stream


def _driver():
    return ctypes.CDLL("libcuda.so.1")


def _has_context():
    context = ctypes.c_void_p()
    return _driver().cuCtxGetCurrent(ctypes.byref(context)) == 0 and bool(context.value)


def _device(address, shape, kind):
    dtype = np.dtype(_DTYPES[kind])
    nbytes = int(np.prod(shape)) * dtype.itemsize
    if not _driver().fake_is_device(ctypes.c_void_p(address), ctypes.c_size_t(nbytes)):
        raise RuntimeError(f"{address:#x} is not {nbytes} bytes of device memory")
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)).view(dtype).reshape(shape)


for _name in [n for n, value in list(globals().items()) if inspect.isclass(value) and n in _API["classes"]]:
    if "enum" not in _API["classes"][_name]:
        globals()[_name] = _version_of(globals()[_name])
if "IProgressMonitor" not in _API["classes"]:
    del IProgressMonitor
