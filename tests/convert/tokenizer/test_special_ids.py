"""Which file names the special tokens: as transformers' AutoTokenizer; what ends an answer besides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from qwen35_gguf.convert.tokenizer.vocabulary import read_vocabulary

Json = dict[str, Any]
DECODER = "added_tokens_decoder"
MAP = {"eos_token": "<|endoftext|>", "pad_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>"}

CASES: dict[str, Json] = {
    "as published": {},
    "tokenizer_config.json before config.json": {"config": lambda c: c.update(eos_token_id=5, pad_token_id=6)},
    "special_tokens_map.json beside a list of added tokens": {"special_tokens_map": lambda c: c.update(MAP)},
    "special_tokens_map.json without such a list": {
        "tokenizer_config": lambda c: c.pop(DECODER),
        "special_tokens_map": lambda c: c.update(MAP),
    },
    "special_tokens_map.json for one of them": {
        "tokenizer_config": lambda c: c.pop(DECODER),
        "special_tokens_map": lambda c: c.update(pad_token="<|im_end|>"),
    },
    "objects": {"tokenizer_config": lambda c: c.update(eos_token={"content": "<|endoftext|>", "__type": "AddedToken"})},
    "an ordinary token": {"tokenizer_config": lambda c: c.update(pad_token="!")},
    "no names": {"tokenizer_config": lambda c: [c.pop("eos_token"), c.pop("pad_token")]},
    "no tokenizer_config.json": {"tokenizer_config": None},
    "generation_config.json besides": {"generation_config": lambda c: c.update(eos_token_id=9, pad_token_id=8)},
}  # fmt: skip


def ids_of(directory: Path) -> dict[str, int]:
    found = {entry.key: entry.value for entry in read_vocabulary(directory, 8200).entries}
    return {key.split(".")[-1].removesuffix("_token_id"): value for key, value in found.items() if "token_id" in key}


@pytest.mark.parametrize("case", CASES)
def test_ids_are_those_of_transformers(trained: Callable[..., Path], case: str) -> None:
    directory = trained(**CASES[case])
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    expected = {"eos": tokenizer.eos_token_id, "padding": tokenizer.pad_token_id, "bos": tokenizer.bos_token_id}
    found = ids_of(directory)
    assert {kind: found.get(kind) for kind in expected} == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(eos_token_id=[8161, 8159]), {}),
        (lambda c: c.update(eos_token_id=8161), {}),
        (lambda c: c.update(eos_token_id=[8161, 8176]), {"eot": 8176}),
        (lambda c: c.update(eos_token_id=[8176, 8161, 8177, 8177]), {"eot": 8176, "eom": 8177}),
        (lambda c: c.update(eos_token_id=[True, None, "x", 9999]), {}),
        (None, {}),
    ],
)
def test_what_else_ends_an_answer(
    trained: Callable[..., Path], change: Callable[[Json], object] | None, expected: dict[str, int]
) -> None:
    found = ids_of(trained(generation_config=change))
    assert {kind: value for kind, value in found.items() if kind in ("eot", "eom")} == expected


def test_more_ends_than_there_are_places_are_noted(trained: Callable[..., Path]) -> None:
    directory = trained(generation_config=lambda c: c.update(eos_token_id=[1, 2, 3, 4]))
    assert any("without 3, 4" in note for note in read_vocabulary(directory, 8200).notes)


@pytest.mark.parametrize(("post", "expected"), [(None, False), ({"type": "ByteLevel"}, False), ("template", True)])
def test_only_the_post_processor_adds_tokens(trained: Callable[..., Path], post: Any, expected: bool) -> None:
    if post == "template":
        single = [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        post = {"type": "Sequence", "processors": [{"type": "TemplateProcessing", "single": single}]}
    settings = {"add_bos_token": True, "bos_token": "<|im_start|>"}
    directory = trained(
        tokenizer=lambda c: c.update(post_processor=post), tokenizer_config=lambda c: c.update(settings)
    )
    found = {entry.key: entry.value for entry in read_vocabulary(directory, 8200).entries}
    assert found["tokenizer.ggml.add_bos_token"] is expected
