"""Which file lists the added tokens, their ids and types: as transformers' AutoTokenizer; tags are always text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from gguf import TokenType

from qwen35_gguf.architecture.tags import TAGS
from qwen35_gguf.convert.tokenizer.added_tokens import looks_special
from qwen35_gguf.convert.tokenizer.vocabulary import read_vocabulary

Json = dict[str, Any]
SIZE = 8200  # rows: eight more than the trained model has tokens
THINK, LAST = 8183, 8191
DECODER = "added_tokens_decoder"


def in_list(tokenizer: Json, **changes: object) -> None:
    """Change <think> in tokenizer.json."""
    next(token for token in tokenizer["added_tokens"] if token["id"] == THINK).update(changes)


def in_decoder(settings: Json, token: int, **changes: object) -> None:
    """Change a token in tokenizer_config.json."""
    settings[DECODER][str(token)].update(changes)


def append(tokenizer: Json) -> None:
    tokenizer["added_tokens"].append({"id": 8192, "content": "<extra>", "special": False, "normalized": False})


CASES: dict[str, Json] = {
    "as published": {},
    "special in tokenizer_config.json only": {"tokenizer_config": lambda c: in_decoder(c, THINK, special=True)},
    "special in tokenizer.json only": {"tokenizer": lambda c: in_list(c, special=True)},
    "another text in tokenizer_config.json": {
        "tokenizer_config": lambda c: in_decoder(c, LAST, content="<|new|>")
    },
    "the list of tokenizer_config.json is older": {"tokenizer": append},
    "no list in tokenizer_config.json": {"tokenizer_config": lambda c: c.pop(DECODER), "tokenizer": append},
    "no tokenizer_config.json": {"tokenizer_config": None},
    "added_tokens.json beside a list": {"added_tokens": lambda c: c.update({"<extra>": 8192})},
    "added_tokens.json without a list": {
        "tokenizer_config": lambda c: c.pop(DECODER),
        "added_tokens": lambda c: c.update({"<extra>": 8192, "<think>": THINK}),
    },
    "special_tokens_map.json beside a list": {"special_tokens_map": lambda c: c.update(mask_token="<think>")},
    "special_tokens_map.json without a list": {
        "tokenizer_config": lambda c: c.pop(DECODER),
        "special_tokens_map": lambda c: c.update(
            additional_special_tokens=["<think>", "<new>"], mask_token={"content": "<|mask|>"}
        ),
    },
    "named tags": {"tokenizer_config": lambda c: c.update(additional_special_tokens=["<think>", "</think>"])},
    "named tags, newer name": {"tokenizer_config": lambda c: c.update(extra_special_tokens=["<tool_call>", "<new>"])},
    "a named token without an id": {"tokenizer_config": lambda c: c.update(pad_token="<|pad|>", mask_token="<m>")},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_added_tokens_are_those_of_transformers(trained: Callable[..., Path], case: str) -> None:
    directory = trained(**CASES[case])
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    found = {entry.key: entry.value for entry in read_vocabulary(directory, SIZE).entries}
    texts, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    ours = {
        token: (texts[token], type_ == TokenType.CONTROL)
        for token, type_ in enumerate(types)
        if type_ in (TokenType.CONTROL, TokenType.USER_DEFINED)
    }
    special = set(tokenizer.all_special_ids)
    theirs = {
        token: (
            added.content,
            (added.special or token in special or looks_special(added.content)) and added.content not in TAGS,
        )
        for token, added in tokenizer.added_tokens_decoder.items()
    }
    assert ours == theirs


NOTES: dict[str, str] = {
    "special in tokenizer_config.json only": r"token '<think>' is special only in tokenizer_config\.json; .*counts",
    "special in tokenizer.json only": r"token '<think>' is special only in tokenizer\.json; tokenizer_config\.json",
    "another text in tokenizer_config.json": r"token 8191 is '<\|audio_pad\|>' in tokenizer\.json and '<\|new\|>' in",
    "the list of tokenizer_config.json is older": r"tokenizer\.json adds '<extra>', which added_tokens_decoder lacks",
    "named tags": r"<think>, </think>: marked as special; written as user-defined",
    "a named token without an id": r"the special token '<\|pad\|>' is not among the added tokens: it gets the id 8192",
}


@pytest.mark.parametrize("case", CASES)
def test_what_disagrees_is_noted(trained: Callable[..., Path], case: str) -> None:
    notes = "\n".join(read_vocabulary(trained(**CASES[case]), SIZE).notes)
    if case in NOTES:
        assert re.search(NOTES[case], notes)
    elif case in ("as published", "no list in tokenizer_config.json"):
        assert notes == ""


SPECIAL: dict[str, Json] = {
    "decoder": {"tokenizer_config": lambda c: [c[DECODER][str(t)].update(special=True) for t in TAG_IDS]},
    "tokenizer.json": {
        "tokenizer_config": lambda c: c.pop(DECODER),
        "tokenizer": lambda c: [t.update(special=True) for t in c["added_tokens"] if t["id"] in TAG_IDS],
    },
    "additional": {"tokenizer_config": lambda c: c.update(additional_special_tokens=list(TAGS))},
    "extra": {"tokenizer_config": lambda c: c.update(extra_special_tokens=list(TAGS))},
    "extra, an object": {"tokenizer_config": lambda c: c["extra_special_tokens"].update(dict(enumerate_tags()))},
    "objects": {"tokenizer_config": lambda c: c.update(additional_special_tokens=[{"content": t} for t in TAGS])},
    "special_tokens_map.json": {
        "tokenizer_config": lambda c: c.pop(DECODER),
        "special_tokens_map": lambda c: c.update(additional_special_tokens=list(TAGS)),
    },
    "added_tokens.json": {
        "tokenizer_config": lambda c: [c.pop(DECODER), c.update(additional_special_tokens=list(TAGS))],
        "tokenizer": lambda c: c.update(added_tokens=[t for t in c["added_tokens"] if t["id"] not in TAG_IDS]),
        "added_tokens": lambda c: c.update(dict(zip(TAGS, TAG_IDS, strict=True))),
    },
    "a token with a purpose": {"tokenizer_config": lambda c: c.update(think_token="<think>", mask_token="</think>")},
}
TAG_IDS = (8183, 8184, 8173, 8174, 8181, 8182)


def enumerate_tags() -> list[tuple[str, str]]:
    return [(f"tag_{number}", tag) for number, tag in enumerate(TAGS)]


@pytest.mark.parametrize("case", SPECIAL)
def test_tags_are_text_wherever_they_are_called_special(trained: Callable[..., Path], case: str) -> None:
    found = read_vocabulary(trained(**SPECIAL[case]), SIZE)
    types = next(entry.value for entry in found.entries if entry.key == "tokenizer.ggml.token_type")
    assert [types[token] for token in TAG_IDS] == [TokenType.USER_DEFINED] * len(TAGS)
    assert any("marked as special; written as user-defined" in note for note in found.notes)


def test_a_gap_between_ids_keeps_them(trained: Callable[..., Path]) -> None:
    found = read_vocabulary(trained(tokenizer_config=lambda c: c[DECODER].pop(str(THINK))), SIZE)
    texts = next(entry.value for entry in found.entries if entry.key == "tokenizer.ggml.tokens")
    assert texts[THINK : THINK + 2] == [f"[PAD{THINK}]", "</think>"]
    assert any("no added token has the id before 8184" in note for note in found.notes)


def test_a_named_token_that_has_no_row_is_left_out(trained: Callable[..., Path]) -> None:
    found = read_vocabulary(trained(tokenizer_config=lambda c: c.update(pad_token="<|pad|>")), 8192)
    assert any("'<|pad|>' is left out: it has no id" in note for note in found.notes)


def test_flags_without_a_place_are_noted(trained: Callable[..., Path]) -> None:
    found = read_vocabulary(trained(tokenizer_config=lambda c: c[DECODER][str(LAST)].update(lstrip=True)), SIZE)
    assert [note for note in found.notes if "'<|audio_pad|>' has lstrip" in note]
