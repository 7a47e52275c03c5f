"""Text becomes the tokens of transformers' tokenizer, normalized or not; tags are text, whatever their type is."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.architecture.tags import TAGS
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.llama.model import Model

# Forms that NFC changes: conjoining jamo, combining marks in one and the other order, singletons, compatibility
# ideographs, compositions that NFC excludes; and marks that would compose with the end of a tag.
UNNORMALIZED = [
    *(
        unicodedata.normalize("NFD", text)
        for text in ("오늘 서울의 날씨는 어떻습니까?", "Việt Nam, ё й", "がぎぐ パピプ")
    ),
    *["e\u0301", "a\u0327\u0301", "a\u0301\u0327", "\u1112\u1161\u11ab", "\u212b\u2126\u212a", "\u2000x", "\u037e"],
    *["\uf900\uf901", "\u0958", "\u05e9\u05bc\u05c1", "\u0308", "\u0338", "\u0345\u0300"],
]
ADDED = [*TAGS, "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|endoftext|>", "<tts_pad>"]
NEAR = ["<|im_start|", "im_end|>", "<", ">", "|>", "<|nothing|>", "</", "think>"]
TEXTS = st.lists(
    st.one_of(st.sampled_from([*UNNORMALIZED, *ADDED, *NEAR, " ", "\n", "user", "\n\n", "  x"]), st.text(max_size=4)),
    max_size=10,
).map("".join)


@pytest.fixture(scope="module")
def with_control_tags(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A file of another converter, which made the tags control tokens."""
    with Model(control_tags(files[0], tmp_path_factory.mktemp("control"))) as loaded:
        yield loaded


def control_tags(file: Path, folder: Path) -> Path:
    entry = read_header(file).find("tokenizer.ggml.token_type")
    assert entry is not None
    texts = read_header(file).value("tokenizer.ggml.tokens")
    changed = [int(TokenType.CONTROL) if text in TAGS else kind for text, kind in zip(texts, entry.value, strict=True)]
    encoded = type(entry).of(entry.key, changed, entry.type, entry.element).encoded
    raw = file.read_bytes()
    assert raw.count(entry.encoded) == 1
    (folder / file.name).write_bytes(raw.replace(entry.encoded, encoded))
    return folder / file.name


@settings(deadline=None, max_examples=400)
@given(text=TEXTS)
def test_tokens_are_those_of_transformers(model: Model, tokenizer: Any, text: str) -> None:
    assert model.tokenize(text) == tokenizer.encode(text, add_special_tokens=False)


@settings(deadline=None, max_examples=100)
@given(text=TEXTS)
def test_the_type_of_tags_changes_no_token(with_control_tags: Model, model: Model, text: str) -> None:
    assert with_control_tags.tokenize(text) == model.tokenize(text)


def test_a_decomposed_sentence_costs_no_more(model: Model) -> None:
    sentence = "오늘 서울의 날씨는 어떻습니까?"
    assert model.tokenize(unicodedata.normalize("NFD", sentence)) == model.tokenize(sentence)


@pytest.mark.parametrize("kind", ["user-defined", "control"])
def test_tags_have_bytes_and_control_tokens_have_none(model: Model, with_control_tags: Model, kind: str) -> None:
    vocabulary = (model if kind == "user-defined" else with_control_tags).vocabulary
    assert list(vocabulary.tags.values()) == list(TAGS)
    assert [vocabulary.piece(token).decode() for token in vocabulary.tags] == list(TAGS)
    (end,) = vocabulary.tokenize("<|im_end|>")
    assert vocabulary.piece(end) == b""
    assert vocabulary.control_tokens == model.vocabulary.control_tokens
    assert "<|im_end|>" in vocabulary.control_tokens
    assert not vocabulary.control_tokens & set(TAGS)


@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("kind", ["user-defined", "control"])
def test_names_spelled_with_ordinary_tokens(
    model: Model, with_control_tags: Model, tokenizer: Any, kind: str, name: str
) -> None:
    vocabulary = (model if kind == "user-defined" else with_control_tags).vocabulary
    ids = vocabulary.tokenize_plain(name)
    assert ids == tokenizer._encode_without_added_tokens(name)
    assert b"".join(vocabulary.piece(token) for token in ids).decode() == name
