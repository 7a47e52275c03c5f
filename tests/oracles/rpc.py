"""RPC servers on loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from qwen35_gguf.errors import RpcServerError
from qwen35_gguf.runtime.llama import rpc

STARTS = 20.0  # seconds that a server may take to start


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def rpc_server(port: int) -> Iterator[subprocess.Popen[str]]:
    """Serve this machine's processor at a port, with one thread."""
    command = [sys.executable, "-m", "qwen35_gguf.cli", "rpc-server", "--listen", f"127.0.0.1:{port}", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + STARTS
            while True:
                try:
                    rpc.say_hello(f"127.0.0.1:{port}")
                    break
                except RpcServerError:
                    assert time.monotonic() < deadline
                    assert process.poll() is None, process.stderr and process.stderr.read()
                    time.sleep(0.05)
            yield process
        finally:
            process.kill()
