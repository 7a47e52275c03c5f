"""See the nodes of llama.cpp's graph as they are computed (`cb_eval`).

Source: ggml/include/ggml.h (struct ggml_tensor), ggml/include/ggml-backend.h (ggml_backend_sched_eval_callback).
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import ModelError
from qwen35_gguf.runtime.llama.library import ggml_library, library

MAX_DIMS, MAX_SRC, MAX_OP_PARAMS, MAX_NAME = 4, 10, 64, 64


class Tensor(ctypes.Structure):
    """`struct ggml_tensor`."""


Tensor._fields_ = (
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * MAX_DIMS),
    ("nb", ctypes.c_size_t * MAX_DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_char * MAX_OP_PARAMS),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * MAX_SRC),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * MAX_NAME),
)


class EvalCallback:
    """Calls `observe` with nodes of a graph after they are computed; its errors are kept, and raised by `check`.

    Attributes:
        function: the C function; give the whole object to `Context`, and keep it as long as the context.

    """

    def __init__(self, wanted: Callable[[str, Any], bool], observe: Callable[[str, Any], None]) -> None:
        """Make the C function.

        Args:
            wanted: is called for each node with its operation's name; True to observe the node.
            observe: is called with the name and the node once it is computed.

        """
        ggml = ggml_library()
        if ggml is None:
            raise ModelError("llama-cpp-python: its ggml library is not in the expected place; run `make runtime`")
        self._ggml: ctypes.CDLL = ggml
        self._ggml.ggml_op_name.restype = ctypes.c_char_p
        self._ggml.ggml_get_data.restype = ctypes.c_void_p
        self._ggml.ggml_get_name.restype = ctypes.c_void_p
        self._ggml.ggml_nbytes.restype = ctypes.c_size_t
        self._wanted, self._observe = wanted, observe
        self._operations: dict[int, str] = {}
        self._checked = False
        self._error: BaseException | None = None
        self.function = library().ggml_backend_sched_eval_callback(self._call)

    def check(self) -> None:
        """Raise what went wrong in the callback."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    @contextlib.contextmanager
    def held_interrupts(self) -> Iterator[None]:
        """Keep a Ctrl-C for `check`: raised where the callback begins it would be forgotten, and the node with it."""
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return

        def keep(_signal: int, _frame: FrameType | None) -> None:
            self._error = KeyboardInterrupt()

        signal.signal(signal.SIGINT, keep)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _call(self, address: int, ask: bool, _data: Any) -> bool:
        if self._error is not None:
            return False
        try:
            node = ctypes.cast(address, ctypes.POINTER(Tensor)).contents
            if not self._checked:
                self._check_layout(address, node)
            kind = self._operation(node.op)
            if not self._wanted(kind, node):
                return not ask
            if not ask:
                self._observe(kind, node)
        except BaseException as error:  # C code cannot be raised through
            self._error = self._error or error  # a Ctrl-C may have come
            return False
        return True

    def _check_layout(self, address: int, node: Any) -> None:
        """Compare with what ggml's own functions return, since the layout of the struct may change."""
        pointer = ctypes.c_void_p(address)
        same = (
            self._ggml.ggml_get_name(pointer) == address + Tensor.name.offset
            and (self._ggml.ggml_get_data(pointer) or 0) == (node.data or 0)
            and self._ggml.ggml_nbytes(pointer) > 0
        )
        if not same:
            raise ModelError("llama-cpp-python: its struct of a tensor has another layout; install the pinned version")
        self._checked = True

    def _operation(self, number: int) -> str:
        known = self._operations.get(number)
        if known is None:
            known = self._operations[number] = self._ggml.ggml_op_name(number).decode()
        return known


def view(tensor: Any, dtype: Any) -> npt.NDArray[Any]:
    """Return a tensor of the CPU as an array, not copied, ggml's first axis last; strides are kept."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    size = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + np.dtype(dtype).itemsize
    buffer = (ctypes.c_char * size).from_address(tensor.data)
    seen: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer, strides=strides)
    return seen
