"""Images and videos of prompts are encoded beside the steps, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from qwen35_gguf.runtime.engine.job import Run
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk


class ImageEncoding:
    """The thread that encodes; it begins with the first image."""

    def __init__(self) -> None:
        """Begin without a thread."""
        self._thread: ThreadPoolExecutor | None = None

    def begin(self, run: Run, done: Callable[[], None]) -> None:
        """Let the image that a prompt waits for be encoded; `done` is called by the thread afterwards.

        Raises:
            VisionError: that failed earlier.

        """
        if run.error is not None:
            raise run.error
        item = run.job.prompt[len(run.live.items)]
        if run.encoding or not isinstance(item, MediaChunk):
            return
        run.encoding = True
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="qwen35-images")
        self._thread.submit(_encode, run, item, done)

    def close(self) -> None:
        """End the thread after the image that it encodes."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)


def _encode(run: Run, item: MediaChunk, done: Callable[[], None]) -> None:
    try:
        if run.phase != "over":  # nobody waits for it any more
            item.encode()
    except Exception as error:
        run.error = error
    run.encoding = False
    done()
