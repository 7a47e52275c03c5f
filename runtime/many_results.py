"""The results of several prompts: each at the place of its prompt, errors with its number."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from qwen35_gguf.errors import Qwen35Error
from qwen35_gguf.runtime.chat.openai_types import Completion
from qwen35_gguf.runtime.field_checks import refuse


def prompts_of(given: Any) -> list[Any]:
    """Return the prompts of a request.

    Raises:
        MessageError: it is a single prompt, or not iterable.

    """
    if isinstance(given, str | bytes | bytearray | Mapping) or not isinstance(given, Iterable):
        raise refuse("prompts", given, "a list of texts and conversations; give [prompt] for one")
    found = list(given)
    if found and all(isinstance(each, Mapping) and "role" in each for each in found):
        raise refuse("prompts", given, "a list of conversations but one of them; give [messages]")
    return found


class Results:
    """The results so far."""

    def __init__(self, count: int, keep_errors: bool, on_result: Callable[[int, Completion], None] | None) -> None:
        """Wait for as many results; see `Qwen35.generate_many`."""
        self._found: list[Completion | Qwen35Error | None] = [None] * count
        self._keep_errors, self._on_result = keep_errors, on_result

    @contextlib.contextmanager
    def noting(self, number: int) -> Iterator[None]:
        """Keep an error about a prompt as its result, or raise it, with its number in the message."""
        try:
            yield
        except Qwen35Error as error:
            named = type(error)(f"prompts[{number}]: {error}")
            if not self._keep_errors:
                raise named from None
            self._found[number] = named

    def add(self, number: int, result: Completion) -> None:
        """Take a result, and pass it on."""
        self._found[number] = result
        if self._on_result is not None:
            self._on_result(number, result)

    def all(self) -> Any:
        """Return the results in the order of the prompts."""
        return list(self._found)
