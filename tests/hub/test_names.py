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


PATHS = ("model.gguf", "models/model-Q4_K_M.gguf", "./org/name", "/org/name", "a/b/c", "org/name:", "name", "-", "")


@pytest.mark.parametrize("text", [*PATHS, "org/name@", "org/name@..", "a/b@c d", f"org/{'n' * 97}"])
def test_what_can_only_be_a_path_is_none(text: str) -> None:
    assert parse_name(text) is None


def test_a_name_is_written_as_it_is_typed() -> None:
    assert str(HubName("org/name")) == "org/name"
    assert str(HubName("org/name", "Q8_0")) == "org/name:Q8_0"
    assert str(HubName("org/name", "Q8_0", "v1.2")) == "org/name@v1.2:Q8_0"


@pytest.mark.parametrize(("text", "quant", "revision"), [
    ("org/name@main", None, "main"),
    ("hf:org/name@refs/pr/1:Q8_0", "Q8_0", "refs/pr/1"),
    ("org/name@0123abc:Q4_K_M", "Q4_K_M", "0123abc"),
])  # fmt: skip
def test_a_name_may_have_a_revision(text: str, quant: str | None, revision: str) -> None:
    assert parse_name(text) == HubName("org/name", quant, revision)
