from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]

def quantize(
    x: _Array,
    source: str,
    format: str,  # noqa: A002
    importance: _Array | None,
    packed: _Array,
    threads: int,
    target: str,
) -> tuple[int, int, bool]: ...
def find_non_finite(x: _Array, source: str) -> tuple[int, int]: ...
def quantize_targets() -> list[str]: ...
def quantize_formats() -> list[str]: ...
