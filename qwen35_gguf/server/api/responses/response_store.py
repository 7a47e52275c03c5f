"""Responses that later requests may continue: the newest ones, in memory."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.server.api_error import ApiError

MAX_RESPONSES = 1_000
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class StoredResponse:
    """A response, and all items that led to it.

    Attributes:
        response: as it was answered.
        items: of the input, those of earlier responses included.
        scope: of the requests that may use it.

    """

    response: dict[str, Any]
    items: list[Any]
    scope: str | None = None

    def size(self) -> int:
        """Measure it as JSON."""
        return len(json.dumps(self.response)) + sum(len(json.dumps(item)) for item in self.items)

    @property
    def conversation(self) -> list[Any]:
        """The items that the next request continues."""
        return [*self.items, *self.response["output"]]


class ResponseStore:
    """Keeps responses by their ids, for several threads; the oldest leave when there are too many."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        """Start empty.

        Args:
            max_responses: kept at most.
            max_bytes: of all of them as JSON.

        """
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._kept: OrderedDict[str, tuple[StoredResponse, int]] = OrderedDict()
        self._bytes = 0
        self._changing = threading.Lock()

    def add(self, stored: StoredResponse) -> None:
        """Keep a response; measuring a long conversation takes time."""
        size = stored.size()
        with self._changing:
            self._kept[stored.response["id"]] = (stored, size)
            self._bytes += size
            while len(self._kept) > self._max_responses or self._bytes > self._max_bytes:
                _, (_, left) = self._kept.popitem(last=False)
                self._bytes -= left

    def find(
        self, identity: str, scope: str | None = None, param: str = "response_id", status: int = 404
    ) -> StoredResponse:
        """Return a response of a scope.

        Raises:
            ApiError: there is none of that id, or none any more.

        """
        with self._changing:
            found, _ = self._kept.get(identity, (None, 0))
            if found is not None and found.scope == scope:
                self._kept.move_to_end(identity)
                return found
        message = f"{param}: there is no response {identity[:80]!r}; send the whole conversation as input"
        raise ApiError(status, message, "previous_response_not_found" if status == 400 else "not_found", param)

    def remove(self, identity: str, scope: str | None = None) -> None:
        """Forget a response; errors as of `find`."""
        self.find(identity, scope)
        with self._changing:
            _, size = self._kept.pop(identity, (None, 0))
            self._bytes -= size
