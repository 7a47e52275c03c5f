"""Checks of the installed llama.cpp."""

from __future__ import annotations

from qwen35_gguf.doctor.engine import Engine, Expected, missing, unused
from qwen35_gguf.doctor.finding import Finding
from qwen35_gguf.doctor.host import Host

SETUP = "qwen35 setup"


def no_engine(_host: Host, engine: Engine) -> Finding | None:
    """Find that there is no llama.cpp."""
    if engine.installed is not None:
        return None
    return Finding("engine-missing", "error", "llama.cpp is not installed: files are converted, but not run", SETUP)


def other_processor(host: Host, engine: Engine) -> Finding | None:
    """Find an engine that was compiled for another processor."""
    lacking = missing(engine.features, host.instruction_sets)
    if not (engine.illegal or lacking):
        return None
    why = f"it needs {', '.join(lacking)}" if lacking else engine.failure
    problem = f"llama.cpp was compiled for another processor ({why}): it ends at its first computation"
    return Finding("engine-other-processor", "error", problem, f"{SETUP} --reinstall")


def broken(_host: Host, engine: Engine) -> Finding | None:
    """Find an engine that cannot be loaded."""
    if not engine.failure or engine.illegal:
        return None
    return Finding("engine-broken", "error", f"llama.cpp cannot be loaded: {engine.failure}", f"{SETUP} --reinstall")


def stock(_host: Host, engine: Engine) -> Finding | None:
    """Find an engine without patches."""
    if engine.installed is None or engine.installed.patches:
        return None
    problem = "llama.cpp is stock, without the patches: DeltaNet layers run several times slower"
    return Finding("engine-stock", "warning", problem, SETUP)


def other_version(_host: Host, engine: Engine, *, expected: Expected) -> Finding | None:
    """Find an engine of another version than this package is made for."""
    installed = engine.installed
    wanted = expected.versions.get(installed.distribution) if installed else None
    if installed is None or wanted is None or installed.version.partition("+")[0] == wanted:
        return None
    problem = f"{installed.distribution} is {installed.version}, and this package is made for {wanted}: calls may fail"
    return Finding("engine-version", "warning", problem, SETUP)


def old_patches(_host: Host, engine: Engine, *, expected: Expected) -> Finding | None:
    """Find an engine that was built from other patches or kernels than those of this clone."""
    installed = engine.installed
    if installed is None or not installed.patches or not expected.patches:
        return None
    # An older build recorded its patches' names only.
    recorded = installed.series and expected.series
    if installed.series == expected.series if recorded else installed.patches == expected.patches:
        return None
    absent = [name[:4] for name in expected.patches if name not in installed.patches]
    what = f"patches {', '.join(absent)} are missing" if absent else "patches or kernels have changed since"
    return Finding("engine-old", "warning", f"llama.cpp was built from an older version of this clone: {what}", SETUP)


def for_less(host: Host, engine: Engine) -> Finding | None:
    """Find an engine that leaves instruction sets of this processor unused."""
    if engine.installed is None or engine.failure:
        return None
    left = unused(engine.features, host.instruction_sets)
    if not left:
        return None
    problem = (
        f"llama.cpp was compiled without {', '.join(left)}, which this processor has: it is slower than it could be"
    )
    return Finding("engine-unused", "warning", problem, f"{SETUP} --reinstall")
