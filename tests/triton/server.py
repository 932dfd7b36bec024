"""A real Triton server, from NVIDIA's wheel, on model repositories of the tests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.waiting import COMPILING_S, free_ports, wait_for

VENV = ROOT / ".venv-triton"
# A server that starts is looked for often: gRPC by itself would wait longer each time.
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]


def _only(pattern: str) -> Path:
    found = sorted(VENV.glob(pattern))
    if not found:
        pytest.skip("needs NVIDIA's Triton server: run `make triton-test-server`")
    return found[0]


def backends(folder: Path) -> Path:
    """A folder of backends: the wheel's for Python, and on it the stand-in for ONNX Runtime's."""
    package = _only("lib/python3.*/site-packages/pytriton/tritonserver")
    version = package.parents[2].name.removeprefix("python")
    stub = _only(f"lib/python3.*/site-packages/pytriton/tritonserver/python_backend_stubs/{version}/*_stub")
    shutil.copytree(package / "backends/python", folder / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(stub, folder / "python")
    shutil.copytree(Path(__file__).with_name("onnxruntime"), folder / "onnxruntime")
    return folder


class TritonServer:
    """A server's process, which can be killed, and started again at the same address.

    Args:
        repository: the model repository; all that is in it is loaded at the start.
        folder: for its own files.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository, self.log = repository, folder / "triton.log"
        self._binary = _only("lib/python3.*/site-packages/pytriton/tritonserver/bin/tritonserver")
        self._backends = backends(folder / "backends")
        self._port, self._metrics = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        pytest.importorskip("tritonclient.grpc", reason="needs the extra 'triton'")
        import tritonclient.grpc as grpc

        self.client = grpc.InferenceServerClient(f"127.0.0.1:{self._port}", channel_args=CHANNEL)

    def uri(self, model: str) -> str:
        return f"triton://127.0.0.1:{self._port}/{model}"

    def start(self) -> None:
        """Start it, and wait until its models are loaded."""
        python = VENV / "bin/python"
        library = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        # The stub of the Python backend wants Python's library, and the CUDA runtime that the wheel brings.
        libraries = f"{library}:{_only('lib/python3.*/site-packages/nvidia_pytriton.libs')}"
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}"}
        environment.pop("PYTHONPATH", None)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binary,
                    f"--model-repository={self.repository}",
                    f"--backend-directory={self._backends}",
                    "--backend-config=python,stub-timeout-seconds=600",
                    *("--grpc-address=127.0.0.1", f"--grpc-port={self._port}", "--allow-http=false"),
                    *("--metrics-address=127.0.0.1", f"--metrics-port={self._metrics}"),
                    *("--model-control-mode=explicit", "--load-model=*"),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._is_ready, self._why_not, COMPILING_S)

    def _why_not(self) -> str:
        return f"the server does not start:\n{self.log.read_text(errors='replace')[-3000:]}"

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._why_not()
        try:
            return bool(self.client.is_server_ready(client_timeout=2.0))
        except Exception:  # tritonclient's and gRPC's have no common base
            return False

    def kill(self) -> None:
        """As a power cut: it and the processes of its backends."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has crashed, and nothing of it is left
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: connections stay, and nothing is answered."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def wait_until_up(self, status: Any) -> None:
        """Wait until a client's status says that the server is up again after a pause.

        NVIDIA's Python backend sometimes crashes when it goes on in the middle of a request (its stub is killed by a
        segmentation fault, and the server aborts). Clients are to survive that, so it is started again.
        """

        def is_up() -> bool:
            if self._process is not None and self._process.poll() is not None:
                self.kill()
                self.start()
            return bool(status.up)

        wait_for(is_up, self._why_not)

    def close(self) -> None:
        self.kill()
        self.client.close()

    def metrics(self) -> dict[str, dict[str, float]]:
        """Its figures: by name, then by model."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for name, labels, value in re.findall(r"^(\w+)\{([^}]*)\} (\S+)$", text, re.M):
            model = re.search(r'model="([^"]*)"', labels)
            if model is not None:
                found[name][model[1]] = float(value)
        return found
