"""Ray, as far as a batch uses it: an instance of its own on this machine, or a cluster; and workers on it."""

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

# Videos and results go through files, next to nothing through Ray's shared memory. This is the least that it takes.
STORE_BYTES = 80 << 20
GRAIN = 10_000  # Ray counts shares of a CPU or a GPU in parts of so many


class WorkerDied(Exception):
    """The process of a worker has ended; says how, as far as that is known."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for; None where nothing was.

    Attributes:
        workers: how many.
        cpus, gpus: share of each.
    """

    workers: int | None = None
    cpus: float | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class Shares:
    """How many workers there are, and how many CPUs and GPUs Ray is told that each needs."""

    workers: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """CPU threads for a model."""
        return max(1, int(self.cpus))


def share(wanted: Wanted, cpus: float, gpus: float, own: bool, most: int | None) -> Shares:
    """Divide what there is among the workers.

    Args:
        wanted: what was asked for.
        cpus, gpus: that there are; GPUs 0 if the models do not run on one.
        own: whether all of it is this batch's; of a cluster each worker takes one CPU.
        most: workers that would have something to do; None if that is not known.

    Raises:
        ConfigError: the GPUs asked for are not there.
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
            f"--gpus: {workers} workers with {each:g} each want {workers * each:g} GPUs, and for this configuration "
            f"Ray finds {gpus:g}; give less, or 0 to run on the CPU"
        )
    return Shares(workers, wanted.cpus or (_floor(cpus / workers) if own else 1.0), each)


def _floor(value: float) -> float:
    return max(1, math.floor(value * GRAIN)) / GRAIN if value > 0 else 0.0


def cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def import_ray(own: bool) -> Any:
    """The package, set up for an instance of its own or for a cluster: it reads these variables when it is imported.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # What it thinks of a worker that dies would stand between our own lines, on the standard output.
    os.environ |= {"RAY_DEDUP_LOGS": "1", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "300")  # a busy machine may be slow to start it
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # `device` says whether a GPU is used
    if own:
        # All that Ray starts listens on the loopback interface alone, by the switch that its other platforms have on;
        # and other users of this machine have no say, for want of the token.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    with extra("ray", "a batch needs Ray"):
        import ray
    return ray


@contextmanager
def connected(address: str | None, wanted: Wanted) -> Iterator[Cluster]:
    """Ray, until the block ends.

    Args:
        address: of a cluster; None for an instance on this machine alone, which ends with the block.
        wanted: what that instance must have room for.

    Raises:
        ConfigError: Ray is not installed.
        DeviceError: it cannot be started, or there is no cluster at the address.
    """
    if address is not None:
        with _initialised(f"no cluster can be had at {address}", address=address) as ray:
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
        except Exception as error:  # of many kinds, and none of them documented
            raise DeviceError(f"Ray: {failure}: {_first_line(error)}") from error
        try:
            yield ray
        except ray.exceptions.RayError as error:
            raise DeviceError(f"Ray: cannot go on: {_first_line(error)}") from error
    finally:
        ray.shutdown()


class Cluster:
    """Ray, connected.

    Args:
        ray: the package.
        own: whether the instance is this batch's alone.
    """

    def __init__(self, ray: Any, own: bool) -> None:
        self._ray, self.own = ray, own

    def resources(self) -> tuple[float, float]:
        """CPUs and GPUs that Ray knows of at present."""
        resources = self._ray.cluster_resources()
        return float(resources.get("CPU", 0)), float(resources.get("GPU", 0))

    def start(self, shares: Shares, *arguments: Any) -> Any:
        """Ask for a worker, made with `arguments`. It runs when there is room for it."""
        # Two calls at a time: one that works, one that says how far it is.
        options = {"num_cpus": shares.cpus, "num_gpus": shares.gpus, "max_restarts": 0, "max_concurrency": 2}
        return self._ray.remote(**options)(BatchWorker).remote(*arguments)

    def ask(self, worker: Any, method: str, *arguments: Any) -> Any:
        """Call a worker's method; gives what `answer` takes."""
        return getattr(worker, method).remote(*arguments)

    def wait(self, asked: Sequence[Any], seconds: float) -> list[Any]:
        """Those of `asked` that are answered, at least one of them unless so many seconds pass."""
        return list(self._ray.wait(list(asked), timeout=seconds)[0])

    def answer(self, asked: Any) -> Any:
        """What a worker answered.

        Raises:
            WorkerDied: nothing, as it has ended.
        """
        try:
            return self._ray.get(asked)
        except self._ray.exceptions.RayError as error:
            log.debug("a worker ended: %s", " ".join(str(error).split()))
            starved = isinstance(error, self._ray.exceptions.OutOfMemoryError) or "low on memory" in str(error)
            raise WorkerDied("was ended for want of memory (give fewer --workers)" if starved else "died") from None

    def stop(self, worker: Any) -> None:
        """End a worker at once."""
        self._ray.kill(worker)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
