"""Run a command once for every operation that changes files, and let that operation fail; print what came of each.

    LD_PRELOAD=fail_writes.so python every_write.py FOLDER ERRNO LASTING FIRST STEP COMMAND...

FOLDER has what the command finds there, and every run gets it anew. A line of JSON for each: the number of the
operation (0: none fails), the exit code, stderr, and the checksums of the files that are left. FIRST and STEP leave
some out. Where files are left that were not there before, the command runs a second time, without a fault; its line
has `"again": true`.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import os
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from qwen35_gguf.commands import discover
from qwen35_gguf.errors import Qwen35Error


def left(folder: Path) -> dict[str, str]:
    """The files of a folder, with their checksums."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def save_states(folder: str) -> None:
    """Save three states."""
    import numpy as np

    from qwen35_gguf.runtime.engine.forest.prefix_cache import SequenceState
    from qwen35_gguf.runtime.engine.forest.state_store import StateStore

    store = StateStore(Path(folder), "m")
    for number in range(3):
        store.save(SequenceState([number], 1, 1, np.full(150_000, number, np.uint8)))


def save_profile(folder: str) -> None:
    """Save a profile."""
    from qwen35_gguf.runtime.tuning import profiles

    os.environ["QWEN35_CACHE"] = folder
    model = Path(folder) / "model.gguf"
    profiles.save(profiles.Profile(profiles.Settings(1, 1), "decode", 1.5, "2026-01-01"), model)


FUNCTIONS = {"states": save_states, "profile": save_profile}


def attempt(arguments: list[str]) -> tuple[int, str]:
    """Run a command in this process, as `qwen35` does; return its exit code and what is on stderr."""
    from qwen35_gguf.cli import main

    error = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(error):
        try:
            if arguments[0] in FUNCTIONS:
                FUNCTIONS[arguments[0]](*arguments[1:])
            else:
                main(args=arguments)
        except SystemExit as stop:
            return (stop.code if isinstance(stop.code, int) else 1), error.getvalue()
        except Qwen35Error as problem:
            return 2, f"Error: {problem}\n"
        except BaseException as problem:
            return 1, f"{type(problem).__name__}: {problem}"
    return 0, error.getvalue()


def run(
    shim: ctypes.CDLL, folder: Path, number: int, error: int, lasting: int, command: list[str], *, again: bool = False
) -> int:
    """Run the command in a child in which an operation fails; print what came of it, and return the operations."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        shim.arm(str(folder).encode(), ctypes.c_long(number), error, lasting)
        code, message = attempt(command)
        seen = shim.reached()
        shim.arm(b"", ctypes.c_long(0), 0, 0)
        os.write(send, str(seen).encode())
        result = {"number": number, "code": code, "error": message, "left": left(folder), "again": again}
        print(json.dumps(result), flush=True)
        os._exit(0)
    os.close(send)
    _, status = os.waitpid(child, 0)
    if status:
        result = {"number": number, "code": -status, "error": "crashed", "left": left(folder), "again": again}
        print(json.dumps(result), flush=True)
    seen = int(os.read(receive, 20) or 0)
    os.close(receive)
    return seen


def main() -> None:
    """Run the command without a fault, and then once for each operation."""
    folder, error, lasting, first, step = Path(sys.argv[1]), *map(int, sys.argv[2:6])
    command = sys.argv[6:]
    shim = ctypes.CDLL(None)
    shim.reached.restype = ctypes.c_long
    kept = folder.with_name(folder.name + ".kept")
    shutil.copytree(folder, kept)
    if command[0] not in FUNCTIONS:
        discover.load(command[0])  # its imports, once
    before = left(folder)
    print(json.dumps({"number": -1, "code": 0, "error": "", "left": before, "again": False}), flush=True)
    total = run(shim, folder, 0, 0, 0, command)
    continued = [before, left(folder)]
    for number in range(min(first, total), total + 1, step):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        run(shim, folder, number, error, lasting, command)
        if (remains := left(folder)) not in continued:
            continued.append(remains)
            run(shim, folder, 0, 0, 0, command, again=True)


if __name__ == "__main__":
    main()
