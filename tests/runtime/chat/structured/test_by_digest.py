"""Results are remembered by digests, and errors are not."""

from __future__ import annotations

import pytest

from qwen35_gguf.runtime.chat.structured import by_digest
from qwen35_gguf.runtime.chat.structured.by_digest import ByDigest

pytestmark = pytest.mark.unit


def test_a_text_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_digest, "MOST", 3)
    asked: list[str] = []

    @ByDigest
    def found(text: str) -> int | None:
        asked.append(text)
        if text == "wrong":
            raise ValueError(text)
        return len(text) or None

    assert [found("a"), found(""), found("a"), found("")] == [1, None, 1, None]
    assert asked == ["a", ""]
    for _ in range(2):
        with pytest.raises(ValueError, match="wrong"):
            found("wrong")
    assert asked == ["a", "", "wrong", "wrong"]
    for text in ("b", "c", "d", "e"):
        assert found(text) == 1
    assert len(found._found) <= 3
    assert found("a") == 1
