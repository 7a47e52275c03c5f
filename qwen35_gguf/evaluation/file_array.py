"""Arrays in files, for what is larger than memory may be.

The space is taken before anything is written: where the disk is full, a page that is written to a file without it ends
the process (SIGBUS).
"""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from qwen35_gguf.atomic_file import disk_errors

PIECE = 1 << 24  # bytes of a write, where space cannot be taken otherwise
UNABLE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def new_array(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Make a file with an array of zeros, float32, and map it; it replaces an existing one.

    Raises:
        OutputError: there is not enough space, or the file cannot be written.

    """
    size = 4 * math.prod(shape)
    with disk_errors(path), path.open("w+b") as file:
        _take_space(file, size)
        found: npt.NDArray[np.float32] = np.memmap(file, np.float32, "r+", shape=shape)
    return found


def _take_space(file: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in UNABLE:
                raise
    for start in range(0, size, PIECE):
        file.write(bytes(min(PIECE, size - start)))
    file.flush()
