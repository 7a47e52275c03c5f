"""A finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """Something that stops models from running (error), makes them slow (warning), or may do so (note).

    Attributes:
        name: by which docs/troubleshooting.md and programs know it.
        severity: how bad it is.
        problem: what was found and what it costs, one sentence.
        command: the one command that mends it.

    """

    name: str
    severity: Severity
    problem: str
    command: str
