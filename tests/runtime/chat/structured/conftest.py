"""The real vocabulary, read once."""

from __future__ import annotations

import pytest

from oracles.random_answers import RealVocabulary
from qwen35_gguf.runtime.chat.structured.token_grammars import TokenGrammars


@pytest.fixture(scope="session")
def grammars() -> TokenGrammars:
    """Grammars for the 248,320 tokens of the family."""
    return TokenGrammars(RealVocabulary())  # type: ignore[arg-type]
