"""Copies of states that save time later: one that cannot be made costs no answer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from qwen35_gguf.errors import Qwen35Error, RpcServerError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def optional_copy() -> Iterator[None]:
    """Let a block fail for want of memory, or by llama.cpp, with a warning.

    Raises:
        RpcServerError: an RPC server is gone, and with it the sequence itself.

    """
    try:
        yield
    except RpcServerError:
        raise
    except (MemoryError, Qwen35Error) as error:
        log.warning("a state of a prompt is not kept: %s", str(error) or "there is too little memory")
