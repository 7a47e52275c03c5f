"""Whether a matrix or a norm is a single value: zeros where weights should be load, and make every answer nonsense.

A tensor is read until two of its weights differ, which in a sound file is immediately.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from gguf import GGML_QUANT_SIZES

from qwen35_gguf.errors import GgufError, MissingDependencyError, QuantizationError
from qwen35_gguf.quant import kernels
from qwen35_gguf.release.lint.diagnostic import Diagnostic, Stored, Subject

FIRST, SLAB = 4096, 1 << 20  # bytes, about: of the first look, and of those after it
ADVICE = "convert again; if the checkpoint has it too, it is damaged: download it again"


def constant(subject: Subject, jobs: int = 0) -> Iterator[Diagnostic]:
    """Check that no matrix has one value only, and no norm is zero. Each expert is a matrix of its own.

    Raises:
        GgufError: the file cannot be read.

    """
    for shard in subject.shards:
        try:
            with shard.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                tensors = [stored for stored in subject.tensors.values() if stored.layout is shard and _weighs(stored)]
                with ThreadPoolExecutor(jobs or None, thread_name_prefix="constant") as pool:
                    for stored, found in zip(tensors, pool.map(lambda one: _look(data, one), tensors), strict=True):
                        if found:
                            yield Diagnostic("error", "values", stored.tensor.name, found, ADVICE)
        except (OSError, ValueError) as error:
            raise GgufError(f"{shard.path}: cannot be read ({error})") from None


def _weighs(stored: Stored) -> bool:
    """Tell whether a tensor may not be constant: not a bias, which is often zero, and not a single number."""
    tensor = stored.tensor
    return tensor.n_weights > 1 and not tensor.name.endswith((".bias", "rope_freqs.weight"))


def _look(data: mmap.mmap, stored: Stored) -> str:
    """Return what is wrong with a tensor; "" if nothing is."""
    shape = tuple(n for n in stored.tensor.shape if n > 1)
    count = shape[0] if len(shape) > 2 and "_exps." in stored.tensor.name else 1
    size = stored.tensor.nbytes // count
    values = [_only_value(data, stored, stored.start + number * size, size) for number in range(count)]
    vector = len(shape) < 2  # norms of an untrained model are 1, and work
    wrong = [number for number, value in enumerate(values) if value is not None and not (vector and value)]
    if not wrong:
        return ""
    value = values[wrong[0]]
    what = "only zeros" if value == 0 else f"the value {value:.6g} everywhere"
    if count == 1:
        return f"has {what}"
    return f"has {what} in {len(wrong)} of {count} experts, the first is {wrong[0]}"


def _only_value(data: mmap.mmap, stored: Stored, start: int, size: int) -> float | None:
    """Return the value that all weights of a matrix have; None if two of them differ."""
    type_ = stored.tensor.type
    columns, block = GGML_QUANT_SIZES[type_]
    at, step, value = 0, max(1, FIRST // block) * block, None
    while at < size:
        part = np.frombuffer(data, np.uint8, min(step, size - at), start + at)
        try:
            weights = kernels.dequantize(part.copy().reshape(-1, block), type_, columns)
        except (QuantizationError, MissingDependencyError):
            return None
        finally:
            del part  # the map cannot be closed while a view of it exists
        if value is None:
            value = float(weights.flat[0])
        if not (weights == value).all():
            return None
        at, step = at + step, max(1, SLAB // block) * block
    return value
