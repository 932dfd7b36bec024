"""The whole examination."""

from __future__ import annotations

from edge_tracker.app.config.schema import Config
from edge_tracker.app.doctor.finding import Finding
from edge_tracker.app.doctor.found_models import examine_models
from edge_tracker.app.doctor.machine import examine_machine
from edge_tracker.app.doctor.needs import examine_needs


def examine(config: Config | None = None) -> list[Finding]:
    """Examine the machine, and whether it has what a configuration needs."""
    findings = [*examine_machine(), *examine_models()]
    if config is not None:
        findings += examine_needs(config)
    return findings
