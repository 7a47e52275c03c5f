"""Tuned settings, kept for each model and hardware, so that loading finds them by itself."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from qwen35_gguf.atomic_file import atomic_file
from qwen35_gguf.cache_dir import profile_dir
from qwen35_gguf.errors import OutputError
from qwen35_gguf.json_file import is_whole
from qwen35_gguf.runtime.context_spec import KV_TYPES
from qwen35_gguf.runtime.llama.devices import Device
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.model_files import model_identity
from qwen35_gguf.runtime.settings import Settings, from_record
from qwen35_gguf.runtime.tuning.search import GOALS, Goal

log = logging.getLogger(__name__)

FORMAT = 2
LARGEST = {"threads": 4096, "threads_batch": 4096, "n_batch": 1 << 20, "gpu_layers": 4096, "host_feed_forward": 4096}
LARGEST_SHARE = 4096


@dataclass(frozen=True)
class Profile:
    """Settings that were found to be fast.

    Attributes:
        settings: what to use.
        goal: what they are fast for.
        gain: tokens per second over those of the defaults.
        created: the date.

    """

    settings: Settings
    goal: Goal
    gain: float
    created: str

    def __str__(self) -> str:
        default = asdict(Settings.default())
        changed = [f"{key} {value}" for key, value in asdict(self.settings).items() if value != default[key]]
        return f"tuned for {self.goal} on {self.created}: {', '.join(changed) or 'the defaults are the fastest'}"


def hardware(devices: Sequence[Device] = ()) -> str:
    """Describe what speed depends on: processor, cores, memory, devices, and the build of llama.cpp.

    Devices are in the order in which a split deals out shares. Those of an RPC server are identified by its address:
    llama.cpp numbers them in the order in which a process connects to them.
    """
    runtime = installed_runtime()
    build = f"{runtime.version} {len(runtime.patches)}" if runtime else "none"
    names = [device.endpoint or device.name for device in devices]
    return json.dumps([_processor(), os.cpu_count(), _memory_gib(), names, build])


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> int:
    if sys.platform == "win32":
        return 0
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30))


def path_of(model: Path, devices: Sequence[Device] = ()) -> Path:
    """Return the file of a model's profile on this hardware."""
    digest = sha256(f"{model_identity(model)} {hardware(devices)}".encode()).hexdigest()
    return profile_dir() / f"{digest[:32]}.json"


def save(profile: Profile, model: Path, devices: Sequence[Device] = ()) -> Path:
    """Write a profile; it replaces an earlier one.

    Raises:
        OutputError: it cannot be written.

    """
    path = path_of(model, devices)
    record = {"format": FORMAT, "model": model_identity(model), "name": model.name, "hardware": hardware(devices)}
    record |= asdict(profile)
    try:
        with atomic_file(path, wait=True, mode=0o600) as file:
            file.write(json.dumps(record, indent=1).encode())
    except OutputError as error:
        raise OutputError(f"{error}, or set QWEN35_CACHE") from None
    return path


def load(model: Path, devices: Sequence[Device] = ()) -> Profile | None:
    """Find the profile of a model on this hardware; one that is damaged or of another model is logged and ignored."""
    path = path_of(model, devices)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s: profile ignored (%s)", path, error)
        return None
    try:
        record = json.loads(text)
        if record["format"] != FORMAT or record["model"] != model_identity(model):
            raise ValueError("it is that of another model or version")
        settings = _settings(record["settings"], len(devices))
        return Profile(settings, _goal(record), float(record["gain"]), str(record["created"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("%s: profile ignored (%s); `qwen35 tune` makes it anew", path, error)
        return None


def _goal(record: dict[str, Any]) -> Goal:
    goal: Goal = record["goal"]
    if goal not in GOALS:
        raise ValueError(f"goal is {goal!r}")
    return goal


def _settings(record: dict[str, Any], devices: int) -> Settings:
    known = {field.name: field.type for field in fields(Settings)}
    if set(record) != set(known):
        raise ValueError("its settings are not those of this version")
    for name, value in record.items():
        if known[name] == "bool" and not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}")
        if known[name] == "int" or (name == "gpu_layers" and value != "auto"):
            least = 0 if name in ("gpu_layers", "host_feed_forward") else 1
            most = LARGEST[name] if devices or name != "gpu_layers" else 0
            if not is_whole(value, least, most):
                raise ValueError(f"{name} is {value!r}")
    if record["kv_type"] not in KV_TYPES:
        raise ValueError(f"kv_type is {record['kv_type']!r}")
    if not _is_split(record["split"], devices):
        raise ValueError(f"split is {record['split']!r}")
    return from_record(record)


def _is_split(value: Any, devices: int) -> bool:
    if not isinstance(value, list) or not all(is_whole(share, 0, LARGEST_SHARE) for share in value):
        return False
    return not value or (len(value) == devices and any(value))
