"""Whether every number in a file is finite, without dequantizing it.

The files are mapped, and read from front to back in slabs whose pages are released.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.errors import GgufError
from qwen35_gguf.gguf_file.finite_blocks import TESTED, not_finite
from qwen35_gguf.release.lint.diagnostic import Diagnostic, Stored, Subject

Advance = Callable[[int], None]

SLAB = 32 << 20
ADVICE = "convert again; if the checkpoint has them too, it is damaged or its training failed"


@dataclass(frozen=True)
class Problem:
    """The first number of a tensor that is not finite; `index` counts blocks (of one number if not quantized)."""

    index: int
    count: int


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
                        if type_ not in TESTED:
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
    found = np.flatnonzero(not_finite(blocks, type_))
    del blocks  # the map cannot be closed while a view of it exists
    _release(data, start, length)
    return (int(found[0]) if found.size else -1), int(found.size)


def _release(data: mmap.mmap, start: int, length: int) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        first = start - start % mmap.PAGESIZE
        data.madvise(mmap.MADV_DONTNEED, first, start + length - first)
