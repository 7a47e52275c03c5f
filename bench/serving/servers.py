"""The servers that are measured: how each is started, with the same file, context, slots and threads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llama_server import llama_server

OURS = "ours"
# llama-server with its defaults (prompt cache, context checkpoints), and with what may serve this work better: no
# repacking (faster prompts on AVX-512); one KV cache for all slots, checkpoints wherever a message ends, chunks reused.
STOCK = {
    "llama-server": (),
    "llama-server, no repack": ("--no-repack",),
    "llama-server, shared": ("--kv-unified", "-cms", "64", "-ctxcp", "64", "--cache-reuse", "256"),
}
SIDES = (*STOCK, OURS)


@dataclass(frozen=True)
class Serving:
    """What all servers have in common.

    Attributes:
        model: the GGUF.
        threads: of each.
        slots: requests side by side.
        cells: tokens of context for each slot.
        log: takes what they write.
        program: llama-server; None: it is built.

    """

    model: Path
    threads: int
    slots: int
    cells: int
    log: Path
    program: Path | None = None


@contextmanager
def running(side: str, serving: Serving, *more: str, slots: int = 0) -> Iterator[int]:
    """Run a server with at least some slots; the block gets its port."""
    slots = max(slots, serving.slots)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    common = [str(serving.model), "--port", str(port), "--threads", str(serving.threads), "--parallel", str(slots)]
    if side == OURS:
        command = [sys.executable, "-m", "qwen35_gguf.cli", "serve", *common, "--ctx", str(serving.cells), "--quiet"]
    else:
        program = str(serving.program or llama_server())
        command = [program, "--model", *common, "--ctx-size", str(serving.cells * slots), "--jinja", *STOCK[side]]
    with serving.log.open("w") as log:
        environment = os.environ | {"QWEN35_API_KEY": ""}
        process = subprocess.Popen([*command, *more], stdout=log, stderr=log, env=environment)
    try:
        _wait(port, process, serving.log)
        yield port
    finally:
        process.terminate()
        process.wait(120)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server has loaded its model."""
    while True:
        if process.poll() is not None:
            sys.exit(f"{log.read_text()[-2000:]}\nthe server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
