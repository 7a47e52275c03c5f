"""The table of checks, and what they find."""

from __future__ import annotations

import functools
from collections.abc import Callable

from qwen35_gguf.doctor import engine_checks, machine_checks
from qwen35_gguf.doctor.engine import Engine, Expected
from qwen35_gguf.doctor.finding import SEVERITIES, Finding
from qwen35_gguf.doctor.host import Host

Check = Callable[[Host, Engine], Finding | None]

CHECKS: tuple[Check, ...] = (
    engine_checks.no_engine,
    engine_checks.other_processor,
    engine_checks.broken,
    engine_checks.stock,
    engine_checks.for_less,
    machine_checks.little_memory,
    machine_checks.cpu_quota,
    machine_checks.power_saver,
    machine_checks.shared_cores,
    machine_checks.thread_limit,
    machine_checks.battery,
    machine_checks.huge_pages,
    machine_checks.old_libc,
)

COMPARISONS = (engine_checks.other_version, engine_checks.old_patches)


def examine(host: Host, engine: Engine, expected: Expected | None = None) -> list[Finding]:
    """Run all checks; errors come first.

    Args:
        host: the machine.
        engine: the installed llama.cpp.
        expected: what it should be; None: not compared.

    """
    compared: list[Check] = [functools.partial(check, expected=expected) for check in COMPARISONS] if expected else []
    found = [finding for check in (*CHECKS, *compared) if (finding := check(host, engine)) is not None]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
