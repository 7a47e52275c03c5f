"""RPC servers: devices of other machines, through ggml's RPC backend.

An RPC server (`qwen35 rpc-server`) serves its devices; a client names it with host:port, and its devices then take
layers as a GPU does. The protocol has no authentication and no encryption, and its server was not written for hostile
input.

Source: llama.cpp ggml/src/ggml-rpc/ggml-rpc.cpp, protocol version 7: a request is a byte for the command, eight for
the size, then the data; an answer is eight bytes for the size, then the data.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from qwen35_gguf.errors import MissingDependencyError, RpcServerError
from qwen35_gguf.runtime.llama.devices import Device, describe
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.llama.library import ggml_library, rpc_library

PROTOCOL = 7  # major version
HELLO, CAPABILITIES = 14, 24  # the command, and the bytes that list what a side can do beside TCP
TIMEOUT = 5.0  # seconds until an answer
CPU, GPUS = 0, (1, 2)  # of ggml_backend_dev_type; an integrated GPU is one, too


def parse_endpoint(text: str) -> tuple[str, int]:
    """Split host:port.

    Raises:
        RpcServerError: it has another form.

    """
    match = re.fullmatch(r"([A-Za-z0-9._-]+):(\d{1,5})", text.strip())
    if match is None or not 0 < int(match[2]) < 65536:
        raise RpcServerError(f"{text!r}: is not host:port with a port from 1 to 65535, such as 192.168.1.20:50052")
    return match[1], int(match[2])


def say_hello(endpoint: str, timeout: float = TIMEOUT) -> None:
    """Check that an RPC server answers and uses this protocol; ggml itself would end the process.

    Raises:
        RpcServerError: it does not.

    """
    host, port = parse_endpoint(endpoint)
    request = bytes([HELLO]) + CAPABILITIES.to_bytes(8, "little") + bytes(CAPABILITIES)
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(request)
            answer = b""
            while len(answer) < 8 + 4 + CAPABILITIES and (more := connection.recv(64)):
                answer += more
    except TimeoutError:
        raise RpcServerError(
            f"RPC server {endpoint}: does not answer within {timeout:.0f} s; it serves one client at a time"
        ) from None
    except OSError as error:
        raise RpcServerError(f"RPC server {endpoint}: cannot be reached ({error.strerror or error})") from None
    if len(answer) < 8 + 3 or int.from_bytes(answer[:8], "little") != 4 + CAPABILITIES:
        raise RpcServerError(f"{endpoint}: is not an RPC server of llama.cpp; start one with `qwen35 rpc-server`")
    if answer[8] != PROTOCOL:
        version = f"version {answer[8]} of the protocol, not {PROTOCOL}"
        raise RpcServerError(f"RPC server {endpoint}: uses {version}; install the same version of llama.cpp")


def connect(endpoints: Sequence[str]) -> list[Device]:
    """Register the devices of RPC servers with ggml, in this order.

    Raises:
        RpcServerError: one does not answer, or has no devices.
        MissingDependencyError: llama-cpp-python is not installed, or was built without RPC.

    """
    if not endpoints:
        return []
    rpc = _library()
    rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    rpc.ggml_backend_reg_dev_count.restype = ctypes.c_size_t
    rpc.ggml_backend_reg_dev_get.restype = ctypes.c_void_p
    found = []
    for endpoint in dict.fromkeys(text.strip() for text in endpoints):
        say_hello(endpoint)
        registry = rpc.ggml_backend_rpc_add_server(endpoint.encode())
        if not registry:
            raise RpcServerError(f"RPC server {endpoint}: has no devices")
        handle = ctypes.c_void_p(registry)
        for index in range(rpc.ggml_backend_reg_dev_count(handle)):
            pointer = rpc.ggml_backend_reg_dev_get(handle, ctypes.c_size_t(index))
            found.append(describe(rpc, pointer, endpoint))
    return found


def serve(endpoint: str, *, threads: int) -> None:
    """Serve the GPUs of this machine, or its CPU if it has none, until a signal ends the process.

    It serves one client at a time; others wait.

    Args:
        endpoint: host:port to listen on.
        threads: of the CPU.

    Raises:
        RpcServerError: it cannot listen there.
        MissingDependencyError: llama-cpp-python is not installed, or was built without RPC.

    """
    host, port = parse_endpoint(endpoint)
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise RpcServerError(
            f"{endpoint}: cannot listen there ({os.strerror(error.errno) if error.errno else error})"
        ) from None
    rpc = _library()
    local = _local(ggml_library())
    devices = [handle for handle, kind in local if kind in GPUS] or [handle for handle, kind in local if kind == CPU]
    array = (ctypes.c_void_p * len(devices))(*devices)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would wait for ggml, which never returns
    sys.stdout.flush()
    rpc.ggml_backend_rpc_start_server(
        endpoint.encode(), None, ctypes.c_size_t(threads), ctypes.c_size_t(len(devices)), array
    )
    raise RpcServerError(f"{endpoint}: the server ended; see the lines above")


def _local(ggml: Any) -> list[tuple[int, int]]:
    """List the handles and types of this machine's devices."""
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    handles = [ggml.ggml_backend_dev_get(ctypes.c_size_t(i)) for i in range(ggml.ggml_backend_dev_count())]
    return [(handle, ggml.ggml_backend_dev_type(ctypes.c_void_p(handle))) for handle in handles]


def _library() -> Any:
    if installed_runtime() is None:
        message = "llama.cpp is needed for RPC servers; `qwen35 setup` installs it"
        raise MissingDependencyError(message)
    library = rpc_library()
    if library is None:
        raise MissingDependencyError("this llama-cpp-python was built without RPC; build one with `make runtime`")
    return library
