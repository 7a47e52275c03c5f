"""Connections by the hundred, of a process that may have few files open: the server refuses some, and continues."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inputs.live_server import LiveServer

resource = pytest.importorskip("resource", reason="Windows limits no files")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
FILES, MANY = 128, 300


@contextlib.contextmanager
def limited(demo: Path, files: int, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a server that may have some files open, and no more."""
    command = [sys.executable, "-m", "qwen35_gguf", "serve", str(demo), "--port", "0", "--ctx", "1k"]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
        ) as running,
    ):
        try:
            yield running
        finally:
            running.kill()


def test_more_connections_than_files(demo: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with limited(demo, FILES, log) as running, contextlib.ExitStack() as stack:
        assert running.stdout is not None
        found = re.match(r"http://localhost:(\d+)", running.stdout.readline())
        assert found
        server = LiveServer(int(found[1]))
        while server.get("/health").status != 200:
            time.sleep(0.1)
        opened = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30)) for _ in range(MANY)
        ]
        answered = [one.recv(1 << 12) for one in opened[-50:]]
        assert all(one.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 5" in one for one in answered)
        refused = server.get("/health")
        assert (refused.status, refused.json["error"]["code"]) == (503, "overloaded")
        stack.close()
        while server.get("/health").status != 200:
            time.sleep(0.1)
        answer = server.post("/v1/completions", {"prompt": "Hello", "max_tokens": 2})
        assert answer.status == 200
        assert running.poll() is None
    assert len(log.read_bytes()) < 100_000  # asyncio logs each connection that it cannot accept, again and again
    assert "Traceback" not in log.read_text()


def test_too_few_files_for_a_server_are_said_before_it_starts(demo: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with limited(demo, 40, log) as running:
        assert running.wait(60) == 2
    (line,) = log.read_text().splitlines()
    assert line.startswith("Error: 40 files may be open at a time, which is too few for a server; raise the limit (`ul")
