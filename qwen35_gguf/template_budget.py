"""What a chat template may cost: steps of loops and calls, and what it makes of texts and lists.

A template is a program of whoever made the file. The sandbox keeps it from everything but its variables; this keeps it
from running forever and from filling the memory. What an operation makes is counted before it is made,
wherever its size is known then, so that a program that makes too much ends with an error.

The unit is a step: a turn of a loop, a call, or 64 characters or entries that are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import GeneratorType
from typing import Any

from qwen35_gguf.errors import MessageError

STEPS = 1_000_000  # of a template, about two seconds
FOR_INPUT = 4  # steps more for each character of the messages
PIECE = 64  # characters or entries that count as a step
LARGEST_SIZE = 1 << 26  # characters or entries of one value
ENTRY = 16  # characters that an entry of a list counts as: it takes as much memory, and longer
SLOW = 50  # times as long as others for each character
LARGEST_NUMBER = 10**6  # an argument that is a width, a count or a precision
LARGEST_BITS = 20_000  # of a whole number
DEEPEST = 200  # lists in lists
# In a format: a width of many digits, or one that is an argument.
_WIDE = re.compile(r"\d{5}|%[^a-zA-Z%]*\*|\{[^{}]*:[^{}]*\{")


class Budget:
    """What is left for one rendering."""

    def __init__(self, *inputs: Any) -> None:
        """Give a template more for longer inputs."""
        self._steps = STEPS
        self._weights: dict[int, tuple[Any, int]] = {}  # of lists, which are kept so that no other one has their id
        self._steps += FOR_INPUT * sum(self.weight(value) for value in inputs)

    def spend(self, steps: int = 1) -> bool:
        """Count steps, and return True, which conditions can have beside them.

        Raises:
            MessageError: there are none left.

        """
        self._steps -= steps
        if self._steps < 0:
            raise MessageError(
                "chat template: takes too long or makes too much; take chat_template.jinja from the checkpoint"
            )
        return True

    def made(self, size: int) -> None:
        """Count what is made, characters or entries; errors as of `spend`."""
        self.spend(1 + size // PIECE if size <= LARGEST_SIZE else self._steps + 1)

    def value(self, value: Any) -> Any:
        """Count a value, and return it; what comes one by one is counted as it comes."""
        if isinstance(value, GeneratorType):
            return self._counted(value)
        self.made(self.weight(value))
        return value

    def _counted(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            self.made(self.weight(value))
            yield value

    def weight(self, value: Any, depth: int = 0) -> int:
        """Return the characters and entries of a value, those inside too, as often as a text of it has them."""
        if isinstance(value, str | bytes | range):
            return len(value) * (ENTRY if isinstance(value, range) else 1)
        if isinstance(value, int):
            if value.bit_length() > LARGEST_BITS:
                self.made(LARGEST_SIZE + 1)
            return 1
        if not isinstance(value, list | tuple | dict | set | frozenset):
            return 1
        known = self._weights.get(id(value))
        if known is not None and len(known[0]) == len(value):
            return known[1]
        if depth > DEEPEST:
            self.made(LARGEST_SIZE + 1)
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        total = ENTRY + sum(ENTRY + self.weight(item, depth + 1) for item in inside)
        self._weights[id(value)] = value, total
        return total

    # ---- what operations will make -------------------------------------------------------------------------------

    def binary(self, operator: str, left: Any, right: Any) -> None:
        """Count what an operator will make of two values; errors as of `spend`."""
        if operator == "*":
            self._product(left, right)
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > LARGEST_BITS:
                self.made(LARGEST_SIZE + 1)
        elif operator == "%" and isinstance(left, str):
            self.formatted(left, "%", [right])
        else:
            self.made(self.weight(left) + self.weight(right) if operator == "+" else 1)

    def _product(self, left: Any, right: Any) -> None:
        for sized, times in ((left, right), (right, left)):
            if isinstance(sized, str | list | tuple) and isinstance(times, int):
                self.made(self.weight(sized) * max(0, times))
                return
        bits = [value.bit_length() for value in (left, right) if isinstance(value, int)]
        self.made(LARGEST_SIZE + 1 if sum(bits) > LARGEST_BITS else 1)

    def formatted(self, form: str, sign: str, values: Sequence[Any]) -> None:
        """Count what a format will make; one with a wide field is refused."""
        if _WIDE.search(form):
            raise MessageError("chat template: has a format with a field of 10,000 characters or more; shorten it")
        most = max((self._largest(value) for value in values), default=0)
        self.made(len(form) + form.count(sign) * (most + 10_000 * (sign == "{" and ":{" in form.replace(" ", ""))))

    def _largest(self, value: Any) -> int:
        inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]
        return max((self.weight(item) for item in inside), default=0)

    def method(self, text: str, name: str, arguments: Sequence[Any]) -> None:
        """Count what a method of a text will make of its arguments; so are filters of the same names."""
        numbers = [value for value in arguments if isinstance(value, int)]
        texts = [len(value) for value in arguments if isinstance(value, str)]
        size = len(text)
        if name == "replace" and len(texts) > 1:
            size += text.count(arguments[0]) * texts[1]
        elif name == "join":
            size = sum(len(item) if isinstance(item, str) else 1 for item in arguments[0]) + size * len(arguments[0])
        elif name == "expandtabs":
            size *= max([8, *numbers])
        elif name in ("indent", "wordwrap"):
            size += (1 + text.count("\n") + (size if name == "wordwrap" else 0)) * max([1, *numbers, *texts])
        elif name == "urlize":
            size *= SLOW
        elif name == "format":
            self.formatted(text, "%", arguments)
        self.made(size + sum(numbers, 0))


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


def current() -> Budget:
    """Return the budget of the template that runs; of code that runs without one, an own."""
    return _current.get() or Budget()


@contextmanager
def budget(*inputs: Any) -> Iterator[Budget]:
    """Run a template within a budget, which is larger for larger inputs."""
    made = Budget(*inputs)
    token = _current.set(made)
    try:
        yield made
    finally:
        _current.reset(token)
