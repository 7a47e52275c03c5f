"""Whether every number in a file is finite, without dequantizing it.

A block of quantized weights is a few scales and small integers: it is finite if its scales are, so only these are
checked. The files are mapped, and read from front to back in slabs whose pages are released.
Source of the layouts: llama.cpp ggml/src/ggml-common.h, and ggml_validate_row_data for what counts.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.errors import GgufError
from qwen35_gguf.release.lint.diagnostic import Diagnostic, Stored, Subject

Bytes = npt.NDArray[np.uint8]
Test = Callable[[Bytes], npt.NDArray[np.bool_]]
Advance = Callable[[int], None]

SLAB = 32 << 20
ADVICE = "convert again; if the checkpoint has them too, it is damaged or its training failed"


@dataclass(frozen=True)
class Problem:
    """The first number of a tensor that is not finite; `index` counts blocks (of one number if not quantized)."""

    index: int
    count: int


def _exponent_full(blocks: Bytes, *, at: int, mask: int, dtype: str) -> npt.NDArray[np.bool_]:
    """Return in which blocks the float at byte `at` is infinite or NaN; blocks is (n, bytes), the result (n,)."""
    width = np.dtype(dtype).itemsize
    bits = np.ascontiguousarray(blocks[:, at : at + width]).view(dtype)[:, 0]
    return np.asarray((bits & mask) == mask)


def _fp16(*offsets: int) -> tuple[Test, ...]:
    """Test the fp16 at each of these offsets."""
    return tuple(partial(_exponent_full, at=at, mask=0x7C00, dtype="<u2") for at in offsets)


def _iq1_m(blocks: Bytes) -> npt.NDArray[np.bool_]:
    """Test its scale, which is spread over the high nibbles of four words at byte 48."""
    words = np.ascontiguousarray(blocks[:, 48:56]).view("<u2")
    bits = (words[:, 0] >> 12) | ((words[:, 1] >> 8) & 0xF0) | ((words[:, 2] >> 4) & 0xF00) | (words[:, 3] & 0xF000)
    return np.asarray((bits & 0x7C00) == 0x7C00)


def _e8m0(blocks: Bytes) -> npt.NDArray[np.bool_]:
    return np.asarray(blocks[:, 0] == 0xFF)


TESTS: dict[Type, tuple[Test, ...]] = {
    Type.F32: (partial(_exponent_full, at=0, mask=0x7F800000, dtype="<u4"),),
    Type.F64: (partial(_exponent_full, at=0, mask=0x7FF << 52, dtype="<u8"),),
    Type.F16: _fp16(0),
    Type.BF16: (partial(_exponent_full, at=0, mask=0x7F80, dtype="<u2"),),
    Type.Q4_0: _fp16(0),
    Type.Q4_1: _fp16(0, 2),
    Type.Q5_0: _fp16(0),
    Type.Q5_1: _fp16(0, 2),
    Type.Q8_0: _fp16(0),
    Type.Q2_K: _fp16(80, 82),  # after 16 scales and 64 bytes of weights
    Type.Q3_K: _fp16(108),  # after 32 + 64 bytes of weights and 12 of scales
    Type.Q4_K: _fp16(0, 2),
    Type.Q5_K: _fp16(0, 2),
    Type.Q6_K: _fp16(208),  # after 128 + 64 bytes of weights and 16 scales
    Type.IQ2_XXS: _fp16(0),
    Type.IQ2_XS: _fp16(0),
    Type.IQ2_S: _fp16(0),
    Type.IQ3_XXS: _fp16(0),
    Type.IQ3_S: _fp16(0),
    Type.IQ1_S: _fp16(0),
    Type.IQ1_M: (_iq1_m,),
    Type.IQ4_NL: _fp16(0),
    Type.IQ4_XS: _fp16(0),
    Type.TQ1_0: _fp16(52),  # after 48 + 4 bytes of weights
    Type.TQ2_0: _fp16(64),  # after 64 bytes of weights
    Type.MXFP4: (_e8m0,),
}


def finite(subject: Subject, jobs: int = 0, advance: Advance = lambda _: None) -> Iterator[Diagnostic]:
    """Check that every scale of every block is finite, and every number that is not quantized.

    Raises:
        GgufError: the file cannot be read.

    """
    untested: set[str] = set()
    for shard in subject.shards:
        try:
            with shard.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                tensors = [stored for stored in subject.tensors.values() if stored.layout is shard]
                with ThreadPoolExecutor(jobs or None, thread_name_prefix="finite") as pool:
                    for stored in tensors:
                        type_ = stored.tensor.type
                        if type_ not in TESTS:
                            untested.add(type_.name)
                            continue
                        problem = _scan(data, stored, pool, advance)
                        if problem is not None:
                            kind = "numbers" if GGML_QUANT_SIZES[type_][0] == 1 else f"blocks of {type_.name}"
                            what = f"{problem.count:,} {kind} are not finite, the first is {problem.index:,}"
                            yield Diagnostic("error", "values", stored.tensor.name, what, ADVICE)
        except (OSError, ValueError) as error:
            raise GgufError(f"{shard.path}: cannot be read ({error})") from None
    if untested:
        yield Diagnostic("note", "values", ", ".join(sorted(untested)), "types that are not checked", "nothing to do")


def _scan(data: mmap.mmap, stored: Stored, pool: ThreadPoolExecutor, advance: Advance) -> Problem | None:
    """Check one tensor, a slab in each thread."""
    block = GGML_QUANT_SIZES[stored.tensor.type][1]
    step = max(1, SLAB // block) * block
    end = stored.start + stored.tensor.nbytes
    starts = range(stored.start, end, step)

    def check(start: int) -> tuple[int, int]:
        return _count(data, start, min(step, end - start), stored.tensor.type)

    first, count = -1, 0
    for start, (slab_first, slab_count) in zip(starts, pool.map(check, starts), strict=True):
        if slab_count and first < 0:
            first = (start - stored.start) // block + slab_first
        count += slab_count
        advance(min(step, end - start))
    return Problem(first, count) if count else None


def _count(data: mmap.mmap, start: int, length: int, type_: Type) -> tuple[int, int]:
    """Return the first block that is not finite, and the number of them."""
    block = GGML_QUANT_SIZES[type_][1]
    blocks: Any = np.frombuffer(data, np.uint8, length, start).reshape(-1, block)
    bad = np.zeros(len(blocks), np.bool_)
    for test in TESTS[type_]:
        bad |= test(blocks)
    found = np.flatnonzero(bad)
    del blocks  # the map cannot be closed while a view of it exists
    _release(data, start, length)
    return (int(found[0]) if found.size else -1), int(found.size)


def _release(data: mmap.mmap, start: int, length: int) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        first = start - start % mmap.PAGESIZE
        data.madvise(mmap.MADV_DONTNEED, first, start + length - first)
