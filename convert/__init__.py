"""Checkpoint to GGUF. Pure Python and NumPy; no torch at run time.

The package is also the function that it is named after: `qwen35_gguf.convert("Qwen/Qwen3.5-4B", "Q4_K_M", "out")`.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    # `qwen35_gguf.convert` is both a subpackage and the public function. A name is bound to one object, so the module
    # itself is callable, and loads the pipeline on the first call. For type checkers the root declares a function.
    def __call__(self, *args: Any, **kwargs: Any) -> list[Path]:
        """Convert a checkpoint; arguments, results and errors are those of `hf_to_gguf.convert`."""
        from qwen35_gguf.convert.hf_to_gguf import convert

        return convert(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
