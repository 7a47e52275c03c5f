"""Load llama.cpp's shared libraries, capture their messages, and find the reason of a failure in them.

Nothing is printed: the errors that llama.cpp logs are kept for the thread that made the call, and the first of them
becomes the reason in an exception. A lost RPC server is reported from a thread of llama.cpp's own; it is recorded for
each loaded model that uses the server, and for no other.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import re
import sys
import threading
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any, NoReturn, SupportsIndex, TypeVar

from qwen35_gguf.errors import CopyError, MissingDependencyError, ModelError, RpcServerError
from qwen35_gguf.llama_package import BINDINGS, installed_runtime
from qwen35_gguf.runtime.llama.handle import check_process
from qwen35_gguf.runtime.llama.openmp import brief_spinning

LIBRARY_PATH = "LLAMA_CPP_LIB_PATH"  # of the bindings
LOG_ERROR = 4  # of ggml_log_level
MESSAGES_KEPT = 20
LOST = re.compile(r"RPC server (\S+) is lost")  # ggml-rpc.cpp, patched; stock ends the process


class _Messages(threading.local):
    """The errors that llama.cpp logged in calls of this thread, oldest first."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.recorded: list[str] | None = None  # what `recorded_log` collects


_messages = _Messages()
_log_callback: Any = None
_connections_lock = threading.Lock()
_process = 0  # the one that loaded the first model


class RpcConnections:
    """The RPC servers that one model uses, and which of them are lost.

    Attributes:
        endpoints: host:port of each.
        lost: those that are gone, in the order in which that was noticed.

    """

    def __init__(self, endpoints: Collection[str] = ()) -> None:
        """Record losses of these servers from now on, until `close`."""
        self.endpoints = frozenset(endpoints)
        self.lost: list[str] = []
        if self.endpoints:
            with _connections_lock:
                _connections.add(self)

    def check(self) -> None:
        """Raise if one of the servers is gone: what it computed and stored is lost.

        Raises:
            RpcServerError: which one.

        """
        if self.lost:
            raise RpcServerError(f"RPC server {self.lost[0]}: is gone; start it again, or leave it out of --rpc")

    def check_shared(self) -> None:
        """Raise if one of the servers is gone for any loaded model: llama.cpp shares the connection between them.

        Raises:
            RpcServerError: which one.

        """
        self.check()
        with _connections_lock:
            lost = {endpoint for other in _connections for endpoint in other.lost}
        for endpoint in sorted(self.endpoints & lost):
            raise RpcServerError(f"RPC server {endpoint}: is gone for another loaded model; close that model first")

    def close(self) -> None:
        """Stop recording; a second call does nothing."""
        with _connections_lock:
            _connections.discard(self)


_connections: weakref.WeakSet[RpcConnections] = weakref.WeakSet()


def _log(level: int, text: bytes, _: Any) -> None:
    if _messages.recorded is not None:
        _messages.recorded.append(text.decode("utf-8", errors="replace"))
    if level != LOG_ERROR:
        return
    line = text.decode("utf-8", errors="replace").strip()
    if not line:
        return
    _messages.lines.append(line)
    del _messages.lines[:-MESSAGES_KEPT]
    if lost := LOST.search(line):
        with _connections_lock:
            for connections in _connections:
                if lost[1] in connections.endpoints and lost[1] not in connections.lost:
                    connections.lost.append(lost[1])


def library() -> Any:
    """Import the bindings of the installed llama.cpp and capture its messages.

    Raises:
        MissingDependencyError: none is installed, or it cannot be loaded.

    """
    global _log_callback
    try:
        package = _package()
        with nullcontext() if package in sys.modules else brief_spinning():
            llama_cpp = importlib.import_module(package)
    except ImportError:
        message = "llama.cpp is needed to run a model; `qwen35 setup` installs it"
        raise MissingDependencyError(message) from None
    except (FileNotFoundError, RuntimeError) as error:  # of the bindings, which look in LLAMA_CPP_LIB_PATH if it is set
        advice = f"unset {LIBRARY_PATH}" if LIBRARY_PATH in os.environ else "install it again with `qwen35 setup`"
        raise MissingDependencyError(f"llama.cpp cannot be loaded ({' '.join(str(error).split())}); {advice}") from None
    if _log_callback is None:
        _log_callback = llama_cpp.llama_log_callback(_log)  # must live as long as the library
    llama_cpp.llama_log_set(_log_callback, None)  # each time, since other code may have set its own
    return llama_cpp


def note_process() -> None:
    """Note that this process runs llama.cpp; one that is forked from it afterwards must not.

    Raises:
        ForkError: it is such a process. Its OpenMP waits for threads that only the parent has.

    """
    global _process
    _process = _process or os.getpid()
    check_process(_process)


def extension_library() -> Any:
    """Import `llama_cpp_ext`, whose functions llama.cpp declares unstable; errors as of `library`."""
    library()
    return importlib.import_module(f"{_package()}.llama_cpp_ext")


def draft_rows_setter() -> Any:
    """Return `llama_set_nextn_rows` of patch 0006, which the bindings do not know; None without the patch."""
    function = getattr(extension_library()._lib, "llama_set_nextn_rows", None)
    if function is not None:
        function.argtypes, function.restype = [library().llama_context_p_ctypes, ctypes.c_uint32], None
    return function


def mtmd_library() -> Any:
    """Import llama.cpp's library for images and capture its messages; errors as of `library`."""
    library()
    mtmd_cpp = importlib.import_module(f"{_package()}.mtmd_cpp")
    mtmd_cpp.mtmd_log_set(_log_callback, None)
    return mtmd_cpp


@functools.cache
def _package() -> str:
    """Return the package to import; the same one for the whole process."""
    runtime = installed_runtime()
    return runtime.package if runtime else BINDINGS


def ggml_library() -> Any:
    """Load ggml's libraries from the installed llama.cpp; None if there is none, or it lacks one of them.

    The last one finds the functions of all that it was linked with, also those of backends that are not chosen when
    they are loaded.
    """
    runtime = installed_runtime()
    if runtime is None:
        return None
    if runtime.is_engine:
        library()  # loads the backend for this processor
    ggml: Any = None
    for part in ("ggml-base", "ggml") if runtime.is_engine else ("ggml-base", "ggml-cpu", "ggml"):
        path = runtime.library(part)
        if not path.is_file():
            return None
        ggml = ctypes.CDLL(str(path))
    return ggml


def rpc_library() -> Any:
    """Load the library with ggml's functions for RPC; None if the installed llama.cpp was built without."""
    runtime = installed_runtime()
    ggml = ggml_library()
    if runtime is None or ggml is None:
        return None
    if runtime.is_engine:  # a backend of its own
        path = runtime.folder / "lib" / ("ggml-rpc.dll" if sys.platform == "win32" else "libggml-rpc.so")
        return ctypes.CDLL(str(path)) if path.is_file() else None
    return ggml if hasattr(ggml, "ggml_backend_rpc_add_server") else None


@contextmanager
def recorded_log() -> Iterator[list[str]]:
    """Collect everything that llama.cpp logs in calls of this thread."""
    lines: list[str] = []
    _messages.recorded = lines
    try:
        yield lines
    finally:
        _messages.recorded = None


def clear_messages() -> None:
    """Forget the errors so far, so that `reason` reports those of the calls that follow."""
    _messages.lines.clear()


def reason(default: str = "no reason given") -> str:
    """Return the first error since `clear_messages` on this thread, without its function's name, or `default`."""
    text = _messages.lines[0] if _messages.lines else default
    _messages.lines.clear()
    return re.sub(r"^\w+: ", "", text)


def set_fields(params: Any, fields: Mapping[str, Any]) -> None:
    """Set fields of a struct of llama.cpp.

    Raises:
        ModelError: the installed version does not have one of them.

    """
    known = {name for name, _ in params._fields_}
    for key, value in fields.items():
        if key not in known:  # ctypes would take it for an attribute of the object
            raise ModelError(f"this llama-cpp-python has no option {key}; install the pinned version")
        setattr(params, key, value)


_Closing = TypeVar("_Closing", bound="Closing")


class Closing:
    """Something with a `close` that may be called twice and is called at the end of a `with`; it cannot be copied."""

    def close(self) -> None:
        """Free it."""
        raise NotImplementedError

    def __enter__(self: _Closing) -> _Closing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse copies and pickles, which would share pointers of llama.cpp that each of them frees."""
        raise CopyError(f"{type(self).__name__}: cannot be copied or pickled; load it again where it is needed")
