"""Files that are read whole, within a size: a device such as /dev/zero, and a pipe, may have no end."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def read_bytes(path: Path, most: int) -> bytes:
    """Return the bytes of a file or pipe.

    Raises:
        OSError: it cannot be read; EFBIG: it has more than `most` bytes.

    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data
