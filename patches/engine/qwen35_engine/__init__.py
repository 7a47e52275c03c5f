"""llama.cpp with the patches of qwen35-gguf: its libraries, and the low-level bindings of llama-cpp-python.

Importing it loads the libraries and, of the backends beside them, the best one for this processor.

Attributes:
    PATCHES: names of the patches, in order.
    SERIES: identifies them and the kernels that they call.

"""

import ctypes
from pathlib import Path

from .llama_cpp import *
from .llama_cpp import _lib, llama_log_callback, llama_log_set
from .qwen35_patches import PATCHES, SERIES

__version__ = "@VERSION@"


def _load_backends() -> None:
    folder = Path(__file__).resolve().parent / "lib"
    name = next(file for file in sorted(folder.glob("*qwen35-ggml.*")) if file.suffix in (".so", ".dylib", ".dll"))
    ggml = ctypes.CDLL(str(name))
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path.restype = None
    ggml.ggml_backend_reg_count.restype = ctypes.c_size_t
    if not ggml.ggml_backend_reg_count():  # a build for one machine has them linked
        silent = llama_log_callback(lambda *_: None)
        llama_log_set(silent, None)
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
        llama_log_set(ctypes.cast(None, llama_log_callback), None)


_load_backends()
