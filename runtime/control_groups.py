"""The control groups of Linux that limit this process: in containers, services and batch systems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class ControlGroup(NamedTuple):
    """A group that this process is in: its version (1 or 2) and its folder."""

    version: int
    folder: Path


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[ControlGroup]:
    """Yield the groups that limit what a controller counts, from the process's own up to the outermost.

    Args:
        controller: memory or cpu.
        root: where /proc and /sys are.

    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            version, tops = 2, ["sys/fs/cgroup"]
        elif controller in controllers.split(","):
            version, tops = 1, list(dict.fromkeys((f"sys/fs/cgroup/{controller}", f"sys/fs/cgroup/{controllers}")))
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for top in tops:
            for length in range(len(parts), -1, -1):
                yield ControlGroup(version, (root / top).joinpath(*parts[:length]))


def read_number(path: Path) -> int | None:
    """Read a number of a control group; None if there is none, or it is `max`, for unlimited."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Return how many processors the groups grant this process, such as 1.5; None without a limit."""
    return min(_cpu_limits(root), default=None)


def _cpu_limits(root: Path) -> Iterator[float]:
    for version, folder in control_groups("cpu", root):
        if version == 2:
            try:
                quota, _, period = (folder / "cpu.max").read_text().strip().partition(" ")
                limits = int(quota), int(period or 100_000)
            except (OSError, ValueError):
                continue
        else:
            limits = read_number(folder / "cpu.cfs_quota_us") or 0, read_number(folder / "cpu.cfs_period_us") or 0
        if limits[0] > 0 and limits[1] > 0:
            yield limits[0] / limits[1]
