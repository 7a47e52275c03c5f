"""Load llama.cpp and print what it was compiled for and which devices it finds: one line of JSON.

python -m qwen35_gguf.doctor.engine_trial
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from qwen35_gguf.doctor.engine import KERNEL_NAMES
from qwen35_gguf.errors import Qwen35Error
from qwen35_gguf.runtime.llama.devices import find_devices
from qwen35_gguf.runtime.llama.library import library


def features(system_info: str) -> list[str]:
    """Return the instruction sets of the CPU that llama.cpp's system info has as `NAME = 1`."""
    cpu = re.search(r"CPU : ([^:]*)(?:\| \w+ :|$)", system_info)
    named = set(re.findall(r"(\w+) = 1\b", cpu[1] if cpu else system_info))
    return sorted(named & KERNEL_NAMES.keys())


def main() -> int:
    """Print what is found; return 1 where llama.cpp cannot be loaded."""
    try:
        llama: Any = library()
        llama.llama_backend_init()
        info = llama.llama_print_system_info().decode(errors="replace")
    except (Qwen35Error, OSError, AttributeError, RuntimeError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)  # noqa: T201 (what the doctor reads)
        return 1
    devices = [
        {"name": one.name, "description": one.description, "total": one.total, "free": one.free, "kind": one.kind}
        for one in find_devices()
    ]
    print(json.dumps({"features": features(info), "devices": devices}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
