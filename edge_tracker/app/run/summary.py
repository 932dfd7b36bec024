"""The summary of a run, printed at its end."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_tracker.app.stats import STAGES, CameraStats, Stats

# Stages that run side by side, each in a thread of its own: the slowest one decides the speed.
SIDE_BY_SIDE = {"reading": ("read",), "detection": ("detect",), "tracking": ("embed", "track"), "writing": ("write",)}


def stage_ms(cameras: Sequence[CameraStats], stage: str) -> float:
    """Mean milliseconds a frame spent in a stage."""
    total = sum(camera.stages[stage].total for camera in cameras)
    frames = sum(camera.frames for camera in cameras)
    return 1000 * total / frames if frames else 0.0


def limiting(camera: CameraStats) -> str:
    """The stage, of those that run side by side, in which a camera spends most time; "" before the first frame."""
    busy = {name: sum(camera.stages[stage].total for stage in stages) for name, stages in SIDE_BY_SIDE.items()}
    return max(busy, key=lambda name: busy[name]) if camera.frames else ""


@dataclass
class Summary:
    """The results of a run in numbers.

    Attributes:
        stats: the statistics of all cameras.
        seconds: from the first frame to the last, without opening and closing.
        outputs: files with the results.
        stopped_by: the signal that ended the run early, or None.
    """

    stats: Stats = field(default_factory=Stats)
    seconds: float = 0.0
    outputs: list[Path] = field(default_factory=list)
    stopped_by: signal.Signals | None = None

    @property
    def cameras(self) -> list[CameraStats]:
        return list(self.stats.cameras.values())

    @property
    def frames(self) -> int:
        """Frames tracked in this run."""
        return sum(camera.frames for camera in self.cameras)

    @property
    def tracks(self) -> int:
        """Different identities reported."""
        return sum(camera.tracks for camera in self.cameras)

    @property
    def fps(self) -> float:
        """Frames per second of the whole run."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def stage_ms(self, stage: str) -> float:
        """Mean milliseconds a frame spent in a stage."""
        return stage_ms(self.cameras, stage)

    def __str__(self) -> str:
        cameras = self.cameras
        lines = [
            f"frames      {self.frames}" + (f" (stopped by {self.stopped_by.name})" if self.stopped_by else ""),
            f"tracks      {self.tracks}",
            f"speed       {self.fps:.1f} frames per second",
            "ms a frame  " + ", ".join(f"{stage} {self.stage_ms(stage):.2f}" for stage in STAGES),
        ]
        limits = sorted({limiting(camera) for camera in cameras} - {""})
        if limits:
            lines.append(f"limit       {', '.join(limits)}")
        detections, embedded = sum(c.detections for c in cameras), sum(c.embedded for c in cameras)
        if embedded:
            lines.append(f"embedded    {100 * embedded / detections:.1f} % of {detections} detections")
        for camera in cameras:
            troubles = [
                *([f"{camera.dropped} frames dropped"] if camera.dropped else []),
                *([f"reconnects: {camera.reconnects}"] if camera.reconnects else []),
                *(f"{n} lost by {name}" for name, n in camera.lost.items() if n),
                *([camera.problem] if camera.problem else []),
            ]
            if len(cameras) > 1:
                troubles = [f"{camera.frames} frames, {camera.tracks} tracks", *troubles]
            if troubles:
                lines.append(f"{camera.name:<11} {'; '.join(troubles)}")
        for name, server in self.stats.servers.items():
            if server.lost or server.fallback or server.outages or not server.up:
                unit = "crops not embedded" if name == "embedder" else "frames without detection"
                parts = [f"server outages: {server.outages}, {server.lost} {unit}"]
                parts += [f"{server.fallback} by the fallback"] if server.fallback else []
                parts += [f"still unavailable: {server.problem}"] if server.problem else []
                lines.append(f"{name:<11} {', '.join(parts)}")
        if self.stats.mqtt_lost:
            lines.append(f"mqtt        {self.stats.mqtt_lost} messages lost")
        lines += [f"{'results' if i == 0 else '':<12}{path}" for i, path in enumerate(self.outputs)]
        return "\n".join(lines)
