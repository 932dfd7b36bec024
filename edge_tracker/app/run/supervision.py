"""Supervision of a long run beside its frames: systemd's watchdog, changed files, reloading the configuration."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from edge_tracker.app.config.schema import Config, cameras_of
from edge_tracker.app.run.camera_run import CameraRun
from edge_tracker.app.run.summary import Summary
from edge_tracker.errors import EdgeTrackerError

log = logging.getLogger(__name__)

LOOK_AT_FILES_S = 2.0

# The keys that a run can reload; of `cameras`, each camera's zones, lines and outputs.
RELOADABLE = ("zones", "lines", "outputs")
RELOADABLE_OF_DETECTOR = ("every", "hold_fps")


def notify_systemd(text: str) -> None:
    """Send a message to systemd if it started this process (sd_notify(3)); never fails."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.sendall(text.encode())
    except OSError as error:
        log.debug("systemd cannot be notified: %s", error)


class Reload(NamedTuple):
    """Rereading a configuration.

    Attributes:
        read: reads it.
        file: its file; when it changes, the configuration is reread.
    """

    read: Callable[[], Config]
    file: Path


class Supervised(Protocol):
    """The parts of a run that its supervisor uses.

    Attributes:
        config: the configuration in force; replaced when it is reloaded.
        cameras, summary: of the run.
        reload: rereads the configuration; None where that is not possible.
    """

    config: Config
    cameras: list[CameraRun]
    summary: Summary
    reload: Reload | None

    def model_files(self) -> list[Path]:
        """The files of the models that are loaded."""


class Supervisor:
    """Supervises one run; call `look` often."""

    def __init__(self, pipeline: Supervised) -> None:
        self._pipeline = pipeline
        interval = os.environ.get("WATCHDOG_USEC", "")
        own = os.environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._watchdog = int(interval) / 2e6 if interval.isdigit() and own else None
        self._next_sign = self._next_files = 0.0
        self._config_stamp = _stamp_of(pipeline.reload)
        self._models = {path: _stamp(path) for path in pipeline.model_files()}

    def ready(self) -> None:
        """Tell systemd that the run is about to start."""
        notify_systemd("READY=1")

    def look(self, reload: bool) -> None:
        """Do what is due: feed the watchdog, look for changed files, reload the configuration.

        Args:
            reload: True if a signal asked for the configuration to be reloaded.
        """
        now = time.monotonic()
        if self._watchdog is not None and now >= self._next_sign:
            self._next_sign = now + self._watchdog
            notify_systemd("WATCHDOG=1")
        if now >= self._next_files:
            self._next_files = now + LOOK_AT_FILES_S
            stamp = _stamp_of(self._pipeline.reload)
            reload |= stamp is not None and stamp != self._config_stamp
            for path, before in self._models.items():
                stamp_now = _stamp(path)
                if stamp_now is not None and stamp_now != before:
                    self._models[path] = stamp_now
                    self._pipeline.summary.stats.models_changed += 1
                    log.warning("%s: was replaced; the run keeps using the old one until it is restarted", path)
        if reload:
            self._config_stamp = _stamp_of(self._pipeline.reload)
            self._reload()

    def stopping(self) -> None:
        """Tell systemd that the run is about to end."""
        notify_systemd("STOPPING=1")

    def _reload(self) -> None:
        pipeline = self._pipeline
        if pipeline.reload is None:
            return
        try:
            config = pipeline.reload.read()
        except EdgeTrackerError as error:
            for line in str(error).split("\n"):
                log.error("the configuration was not reloaded: %s", line)
            return
        later = needs_restart(pipeline.config, config)
        present = {camera.camera.name: camera for camera in pipeline.cameras}
        for camera in cameras_of(config):
            run = present.get(camera.name)
            if run is not None:
                run.change(camera, config.detector)
        pipeline.config = pipeline.config.model_copy(
            update={
                name: getattr(config, name)
                for name in (*RELOADABLE, "detector", "cameras")
                if name not in later and not any(key.startswith(f"{name}.") for key in later)
            }
        )
        pipeline.summary.stats.reloads += 1
        log.info("the configuration was reloaded")
        for name in later:
            log.warning("%s: the change needs a restart", name)


def needs_restart(before: Config, after: Config) -> list[str]:
    """The keys whose change needs a restart."""
    keys = [name for name in Config.model_fields if name not in (*RELOADABLE, "detector", "cameras")]
    changed = [name for name in keys if getattr(before, name) != getattr(after, name)]
    changed += [
        f"detector.{name}"
        for name, value in before.detector
        if name not in RELOADABLE_OF_DETECTOR and value != getattr(after.detector, name)
    ]
    old, new = ({camera.name: camera for camera in cameras_of(config)} for config in (before, after))
    changed += [f"camera {name}" for name in old.keys() ^ new.keys()]
    changed += [
        f"camera {name}: {what}"
        for name in sorted(old.keys() & new.keys())
        for what in ("source", "tracker")
        if getattr(old[name], what) != getattr(new[name], what) and what not in changed
    ]
    return changed


def _stamp_of(reload: Reload | None) -> tuple[int, int, int] | None:
    """`_stamp` of the configuration's file, if there is one."""
    return None if reload is None else _stamp(reload.file)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Modification time, size and inode of a file, to tell when it is written or replaced; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
