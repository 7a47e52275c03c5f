"""Names of models on the Hub, told from paths."""

from __future__ import annotations

import pytest

from qwen35_gguf.hub.names import HubName, parse_name

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "repo", "quant"),
    [
        ("org/name", "org/name", None),
        ("org/name/", "org/name", None),
        ("hf:org/name", "org/name", None),
        ("org/Qwen3.5-9B-GGUF:Q4_K_M", "org/Qwen3.5-9B-GGUF", "Q4_K_M"),
        ("hf:org/name:UD-Q4_K_XL", "org/name", "UD-Q4_K_XL"),
        ("org/name:name-Q8_0.gguf", "org/name", "name-Q8_0.gguf"),
        ("hf:org/odd.gguf", "org/odd.gguf", None),
    ],
)
def test_a_name_has_a_repository_and_may_have_a_quant(text: str, repo: str, quant: str | None) -> None:
    assert parse_name(text) == HubName(repo, quant)


@pytest.mark.parametrize(
    "text", ["model.gguf", "models/model-Q4_K_M.gguf", "./org/name", "/org/name", "a/b/c", "org/name:", "name", "-", ""]
)
def test_what_can_only_be_a_path_is_none(text: str) -> None:
    assert parse_name(text) is None


def test_a_name_is_written_as_it_is_typed() -> None:
    assert str(HubName("org/name")) == "org/name"
    assert str(HubName("org/name", "Q8_0")) == "org/name:Q8_0"
