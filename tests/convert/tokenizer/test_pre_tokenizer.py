"""AutoTokenizer takes the family's normalizer and regex, whatever tokenizer.json holds; so does the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from oracles import llama
from oracles.paths import TINY
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.convert.tokenizer.pre_tokenizer import FAMILY, OLDER
from qwen35_gguf.convert.tokenizer.vocabulary import read_vocabulary

Json = dict[str, Any]
SAMPLES = ["किताब สวัสดี", "HELLO don't", "1234 x\n\n y", "tab\there", "Ünïcödé", "a  b"]


def splitting(pattern: str) -> Json:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}}


CASES: dict[str, tuple[Json, str]] = {
    "the older regex": (splitting(OLDER), "splits words by Qwen2's older regex"),
    "another regex": (splitting(r"\p{L}+|\p{N}{1,3}|[^\p{L}\p{N}]+"), r"which is not the family's regex"),
    "GPT-2's": (
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}},
        "splits words by 'the regex of GPT-2'",
    ),
    "none": ({"pre_tokenizer": None}, "splits words by no regex"),
    "lower case": ({"normalizer": {"type": "Lowercase"}}, "normalizes with Lowercase, not NFC"),
    "a sequence": (
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "NFC"}, {"type": "Strip", "strip_left": True, "strip_right": True}],
            }
        },
        "normalizes with NFC, Strip, not NFC",
    ),
    "no normalizer": ({"normalizer": None}, "has no normalizer, not NFC"),
    "NFKC": ({"normalizer": {"type": "NFKC"}}, "normalizes with NFKC, not NFC"),
}


def test_the_published_tokenizer_needs_no_note() -> None:
    assert FAMILY in (TINY / "tokenizer.json").read_text().replace("\\\\", "\\")
    assert read_vocabulary(TINY, 8192).notes == ()


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_of_transformers(trained: Callable[..., Path], case: str, converted: Path) -> None:
    change, words = CASES[case]
    directory = trained(tokenizer=lambda c: c.update(change))
    found = read_vocabulary(directory, 8192)
    assert [note for note in found.notes if words in note and "AutoTokenizer" in note]
    published = read_vocabulary(TINY, 8192).entries
    assert found.entries == tuple(entry for entry in published if "chat_template" not in entry.key)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert llama.tokenize(converted, SAMPLES) == [tokenizer.encode(text, add_special_tokens=False) for text in SAMPLES]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_to_gguf.convert(TINY, "Q8_0", tmp_path_factory.mktemp("tiny"), vision=False, mtp=False)[0]
