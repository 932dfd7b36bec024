"""Findings of the examination, with problems and their fixes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from edge_tracker.errors import EdgeTrackerError


@dataclass(frozen=True)
class Finding:
    """One item of the examination.

    Attributes:
        what: its name.
        value: its value, such as a version.
        problem: the problem; "" if there is none.
        fix: a fix of the problem.
        needed: True if the given configuration cannot run with the problem.
    """

    what: str
    value: str
    problem: str = ""
    fix: str = ""
    needed: bool = False


def to_text(findings: list[Finding]) -> str:
    """The findings as text: a line for each, followed by its problem and fix."""
    width = max(len(finding.what) for finding in findings) + 2
    lines = []
    for finding in findings:
        lines.append(f"{finding.what:<{width}}{finding.value}".rstrip())
        if finding.problem:
            lines.append(f"{'':<{width}}{'NEEDED' if finding.needed else 'problem'}: {finding.problem}")
        if finding.fix:
            lines.append(f"{'':<{width}}fix: {finding.fix}")
    return "\n".join(lines)


def to_json(findings: list[Finding]) -> str:
    return json.dumps({"ok": is_ok(findings), "findings": [asdict(finding) for finding in findings]}, indent=1)


def is_ok(findings: list[Finding]) -> bool:
    """True if the given configuration can run."""
    return not any(finding.needed and finding.problem for finding in findings)


def attempt(what: str, check: Callable[[], str], otherwise: str, needed: bool = False) -> Finding:
    """The finding of a check; its error is the problem."""
    try:
        return Finding(what, check(), needed=needed)
    except EdgeTrackerError as error:
        return failed(what, otherwise, error, needed)


def failed(what: str, value: str, error: EdgeTrackerError, needed: bool = False) -> Finding:
    """The finding of an error: the problem is its message up to a semicolon, the fix the rest."""
    problem, _, fix = str(error).partition("; ")
    return Finding(what, value, problem, fix, needed)
