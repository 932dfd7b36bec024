"""The batch's use of Ray: an instance of its own on this machine, or a cluster; and the workers on it."""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edge_tracker.app.batch.worker import BatchWorker
from edge_tracker.app.extras import extra
from edge_tracker.errors import ConfigError, DeviceError

log = logging.getLogger(__name__)

# Videos and results go through files, hardly anything through Ray's shared memory. This is the least that Ray accepts.
STORE_BYTES = 80 << 20
GRAIN = 10_000  # Ray counts shares of a CPU or a GPU in units of one over this


class WorkerDied(Exception):
    """The process of a worker has ended; its message tells how, if that is known."""


@dataclass(frozen=True)
class Wanted:
    """The requested resources; None where nothing was requested.

    Attributes:
        workers: number of workers.
        cpus, gpus: share of each worker.
    """

    workers: int | None = None
    cpus: float | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class Shares:
    """The number of workers, and the CPUs and GPUs that each is declared to need."""

    workers: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """CPU threads for a model."""
        return max(1, int(self.cpus))


def share(wanted: Wanted, cpus: float, gpus: float, own: bool, most: int | None) -> Shares:
    """Divide the machine or cluster among the workers.

    Args:
        wanted: the requested resources.
        cpus, gpus: the available ones; GPUs 0 if the models do not run on one.
        own: True if all of it is this batch's; on a cluster each worker takes one CPU.
        most: workers that would have something to do; None if that is not known.

    Raises:
        ConfigError: the requested GPUs are not available.
    """
    workers = wanted.workers
    if workers is None:
        workers = int(cpus / (wanted.cpus or 1))
        if wanted.gpus:
            workers = min(workers, int(gpus / wanted.gpus))
        if most is not None:
            workers = min(workers, most)
    workers = max(1, workers)
    each = wanted.gpus
    if each is None:
        each = min(1.0, _floor(gpus / workers))
    elif own and each * workers > gpus:
        raise ConfigError(
            f"--gpus: {workers} workers with {each:g} each need {workers * each:g} GPUs, but for this configuration "
            f"Ray finds {gpus:g}; give fewer, or 0 to run on the CPU"
        )
    return Shares(workers, wanted.cpus or (_floor(cpus / workers) if own else 1.0), each)


def _floor(value: float) -> float:
    return max(1, math.floor(value * GRAIN)) / GRAIN if value > 0 else 0.0


def cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def import_ray(own: bool) -> Any:
    """Import the package, with the environment variables for an instance of its own or for a cluster.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Its remarks about a worker that dies would appear between our own lines, on the standard output.
    os.environ |= {"RAY_DEDUP_LOGS": "1", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "300")  # a busy machine may be slow to start it
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # `device` says whether a GPU is used
    if own:
        # Everything that Ray starts listens on the loopback interface only, by a switch that is on by default on its
        # other platforms; and other users of this machine cannot connect, since they lack the token.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    with extra("ray", "a batch needs Ray"):
        import ray
    return ray


@contextmanager
def connected(address: str | None, wanted: Wanted) -> Iterator[Cluster]:
    """A connection to Ray until the block ends.

    Args:
        address: a cluster's address; None for an instance on this machine alone, which ends with the block.
        wanted: the resources that such an instance must have.

    Raises:
        ConfigError: Ray is not installed.
        DeviceError: it cannot be started, or there is no cluster at the address.
    """
    if address is not None:
        with _initialised(f"no cluster can be reached at {address}", address=address) as ray:
            yield Cluster(ray, own=False)
        return
    folder = tempfile.mkdtemp(prefix="edge-tracker-", dir=os.environ.get("RAY_TMPDIR"))
    try:
        with _initialised(
            "cannot be started",
            address="local",
            num_cpus=max(cores(), math.ceil((wanted.workers or 1) * (wanted.cpus or 0))),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        ) as ray:
            yield Cluster(ray, own=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _initialised(failure: str, **options: Any) -> Iterator[Any]:
    ray = import_ray(own=options["address"] == "local")
    try:
        try:
            ray.init(log_to_driver=False, configure_logging=False, logging_level=logging.CRITICAL, **options)
        except Exception as error:  # of many types, none of them documented
            raise DeviceError(f"Ray: {failure}: {_first_line(error)}") from error
        try:
            yield ray
        except ray.exceptions.RayError as error:
            raise DeviceError(f"Ray: cannot continue: {_first_line(error)}") from error
    finally:
        ray.shutdown()


class Cluster:
    """A connected Ray instance.

    Args:
        ray: the package.
        own: True if the instance is this batch's alone.
    """

    def __init__(self, ray: Any, own: bool) -> None:
        self._ray, self.own = ray, own

    def resources(self) -> tuple[float, float]:
        """The CPUs and GPUs that Ray has at present."""
        resources = self._ray.cluster_resources()
        return float(resources.get("CPU", 0)), float(resources.get("GPU", 0))

    def start(self, shares: Shares, *arguments: Any) -> Any:
        """Request a worker, constructed with `arguments`. It starts when there is room for it."""
        # Two calls at a time: one that works, and one that reports its progress.
        options = {"num_cpus": shares.cpus, "num_gpus": shares.gpus, "max_restarts": 0, "max_concurrency": 2}
        return self._ray.remote(**options)(BatchWorker).remote(*arguments)

    def ask(self, worker: Any, method: str, *arguments: Any) -> Any:
        """Call a worker's method, and return a request for `answer`."""
        return getattr(worker, method).remote(*arguments)

    def wait(self, asked: Sequence[Any], seconds: float) -> list[Any]:
        """Wait until at least one of `asked` is answered or the time is over, and return those that are answered."""
        return list(self._ray.wait(list(asked), timeout=seconds)[0])

    def answer(self, asked: Any) -> Any:
        """A worker's answer.

        Raises:
            WorkerDied: it has ended without one.
        """
        try:
            return self._ray.get(asked)
        except self._ray.exceptions.RayError as error:
            log.debug("a worker ended: %s", " ".join(str(error).split()))
            starved = isinstance(error, self._ray.exceptions.OutOfMemoryError) or "low on memory" in str(error)
            raise WorkerDied("was ended for lack of memory (give fewer --workers)" if starved else "died") from None

    def stop(self, worker: Any) -> None:
        """End a worker at once."""
        self._ray.kill(worker)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
