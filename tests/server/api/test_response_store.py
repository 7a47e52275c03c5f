"""Which responses are kept."""

from __future__ import annotations

import pytest

from qwen35_gguf.server.api.responses.response_store import ResponseStore, StoredResponse
from qwen35_gguf.server.api_error import ApiError


def stored(identity: str, text: str = "") -> StoredResponse:
    return StoredResponse({"id": identity, "output": [{"text": text}]}, [{"content": "question"}])


def test_the_oldest_leave_when_there_are_too_many() -> None:
    store = ResponseStore(max_responses=2)
    store.add(stored("a"))
    store.add(stored("b"))
    store.find("a")  # a is newer than b now
    store.add(stored("c"))
    assert store.find("a").conversation == [{"content": "question"}, {"text": ""}]
    with pytest.raises(ApiError, match="no response 'b'"):
        store.find("b")


def test_the_oldest_leave_when_they_are_too_large() -> None:
    store = ResponseStore(max_bytes=400)
    store.add(stored("a", "x" * 100))
    store.add(stored("b", "x" * 250))
    with pytest.raises(ApiError):
        store.find("a")
    store.remove("b")
    store.add(stored("c", "x" * 250))
    assert store.find("c")
