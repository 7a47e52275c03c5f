"""The vocabulary's entries; those of BPE checkpoints are compared with the stock converter in test_metadata.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from gguf import GGUFReader, GGUFValueType, TokenType

from qwen35_gguf.convert.tokenizer import PRE_TOKENIZERS, vocabulary
from qwen35_gguf.errors import CheckpointError, MissingDependencyError

QWEN35, QWEN2 = PRE_TOKENIZERS
Json = dict[str, Any]
Write = Callable[..., Path]


def split(pattern: str) -> Json:
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ],
    }


def added(token_id: int, content: str, *, special: bool) -> Json:
    return {"id": token_id, "content": content, "special": special, "normalized": False}


def small_tokenizer() -> Json:
    return {
        "added_tokens": [
            added(4, "<|im_end|>", special=False),
            added(5, "<think>", special=False),
            added(6, "[X]", special=True),
            added(7, "[Y]", special=False),
        ],
        "pre_tokenizer": split(QWEN35),
        "post_processor": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3}, "merges": [["a", "b"]]},
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a small BPE checkpoint; keywords are the files' contents, by stem."""

    def write_files(**files: object) -> Path:
        for stem, content in ({"tokenizer": small_tokenizer()} | files).items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / f"{stem}.json").write_text(text, encoding="utf-8")
        return tmp_path

    return write_files


def entries(directory: Path, vocab_size: int = 10) -> dict[str, Any]:
    return {entry.key: entry.value for entry in vocabulary(directory, vocab_size)}


@pytest.mark.unit
def test_tokens_types_and_padding(write: Write) -> None:
    found = entries(write(tokenizer_config={"pad_token": "[Y]"}))
    assert found["tokenizer.ggml.model"] == "gpt2"
    assert found["tokenizer.ggml.pre"] == "qwen35"
    assert found["tokenizer.ggml.tokens"][3:] == ["ab", "<|im_end|>", "<think>", "[X]", "[Y]", "[PAD8]", "[PAD9]"]
    assert found["tokenizer.ggml.token_type"] == [
        *[TokenType.NORMAL] * 4,
        TokenType.CONTROL,  # not marked, but looks special
        TokenType.USER_DEFINED,
        TokenType.CONTROL,  # marked
        TokenType.CONTROL,  # not marked, but has a role
        TokenType.UNUSED,
        TokenType.UNUSED,
    ]


@pytest.mark.unit
def test_tokens_that_only_the_settings_know(write: Write) -> None:
    directory = write(tokenizer_config={"added_tokens_decoder": {"8": {"content": "▁<new>", "special": False}}})
    assert entries(directory)["tokenizer.ggml.tokens"][8] == " <new>"


@pytest.mark.unit
@pytest.mark.parametrize(("pattern", "name"), PRE_TOKENIZERS.items())
def test_known_pre_tokenizers(write: Write, pattern: str, name: str) -> None:
    assert entries(write(tokenizer=small_tokenizer() | {"pre_tokenizer": split(pattern)}))["tokenizer.ggml.pre"] == name


@pytest.mark.unit
@pytest.mark.parametrize("pre_tokenizer", [None, split(r"\p{L}+"), split(QWEN35 + r"|\p{M}"), {"type": "ByteLevel"}])
def test_unknown_pre_tokenizers_are_quoted(write: Write, pre_tokenizer: Json | None) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: the pre-tokenizer has .*known are qwen35") as caught:
        entries(write(tokenizer=small_tokenizer() | {"pre_tokenizer": pre_tokenizer}))
    if pre_tokenizer and pre_tokenizer["type"] == "Sequence":
        assert repr(pre_tokenizer["pretokenizers"][0]["pattern"]["Regex"]) in str(caught.value)


@pytest.mark.unit
@pytest.mark.parametrize("merges", [["a b"], [["a", "b"]]])
def test_merges_in_both_forms(write: Write, merges: list[object]) -> None:
    tokenizer = small_tokenizer()
    tokenizer["model"]["merges"] = merges
    assert entries(write(tokenizer=tokenizer))["tokenizer.ggml.merges"] == ["a b"]


@pytest.mark.unit
def test_spaces_inside_merges(write: Write) -> None:
    tokenizer = small_tokenizer()
    tokenizer["model"]["merges"] = [["a ", "b"]]
    assert entries(write(tokenizer=tokenizer))["tokenizer.ggml.merges"] == ["aĠ b"]


@pytest.mark.unit
def test_special_ids(write: Write) -> None:
    settings = {"eos_token": {"content": "<|im_end|>"}, "pad_token": "a", "add_bos_token": True, "add_sep_token": True}
    config = {"eos_token_id": 1, "pad_token_id": 2, "text_config": {"bos_token_id": 3, "unk_token_id": [1, 2]}}
    found = vocabulary(write(tokenizer_config=settings, config=config), 10)
    assert {e.key.removeprefix("tokenizer.ggml."): (e.value, e.type) for e in found if e.key.endswith("token_id")} == {
        "eos_token_id": (4, GGUFValueType.UINT32),  # the settings name it
        "padding_token_id": (2, GGUFValueType.UINT32),  # not an added token: config.json
        "bos_token_id": (3, GGUFValueType.UINT32),  # only there
    }
    flags = {e.key.removeprefix("tokenizer.ggml."): e.value for e in found if ".add_" in e.key}
    # The post-processor adds nothing, whatever the settings claim.
    assert flags == {"add_bos_token": False, "add_eos_token": False, "add_sep_token": True}


@pytest.mark.unit
def test_a_template_that_adds_bos(write: Write) -> None:
    single = [{"SpecialToken": {"id": "[X]"}}, {"Sequence": {"id": "A"}}]
    tokenizer = small_tokenizer() | {"post_processor": {"type": "TemplateProcessing", "single": single}}
    assert entries(write(tokenizer=tokenizer, tokenizer_config={"bos_token": "[X]"}))["tokenizer.ggml.add_bos_token"]


@pytest.mark.unit
def test_chat_template_precedence(write: Write) -> None:
    key = "tokenizer.chat_template"
    directory = write(chat_template={"chat_template": "json"}, tokenizer_config={"eos_token": "a"})
    assert entries(directory)[key] == "json"
    (directory / "chat_template.jinja").write_text("jinja")
    assert entries(directory)[key] == "jinja"
    write(tokenizer_config={"chat_template": "settings"})
    assert entries(directory)[key] == "settings"


@pytest.mark.unit
def test_named_chat_templates(write: Write) -> None:
    directory = write()
    (directory / "chat_template.jinja").write_text("main")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool-use.jinja").write_text("tools")
    assert {k: v for k, v in entries(directory).items() if "chat_template" in k} == {
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "tools",
        "tokenizer.chat_template": "main",
    }


def changed(path: str, value: object) -> Json:
    """The small tokenizer with one value changed; the path is separated by slashes."""
    tokenizer: Any = small_tokenizer()
    *parents, last = path.split("/")
    node = tokenizer
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[last] = value
    return tokenizer


@pytest.mark.unit
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer": "{"}, r"tokenizer\.json: not valid JSON"),
        ({"tokenizer": "[]"}, r"tokenizer\.json: holds a list, expected an object"),
        ({"tokenizer_config": "{"}, r"tokenizer_config\.json: not valid JSON"),
        ({"tokenizer": changed("model/type", "Unigram")}, r"model\.type is not BPE"),
        ({"tokenizer": changed("model/vocab/c", 3)}, r"the tokens 'ab' and 'c' share the id 3"),
        ({"tokenizer": changed("model/vocab/c", 10)}, r"token 'c' has the id 10, outside the vocabulary of 10"),
        ({"tokenizer": changed("model/vocab/c", "8")}, r"token 'c' has the id '8'"),
        ({"tokenizer": changed("added_tokens/1/id", 4)}, r"the tokens '<\|im_end\|>' and '<think>' share the id 4"),
        ({"tokenizer": changed("added_tokens/0/id", 2)}, r"the tokens 'Ġ' and '<\|im_end\|>' share the id 2"),
        ({"tokenizer": changed("added_tokens/0/content", None)}, r"an entry without an id or content"),
        ({"tokenizer": changed("model/merges", [["a"]])}, r"\['a'\] is not a merge"),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"4": {"content": "other"}}}},
            r"id 4 is '<\|im_end\|>' here and 'other' in tokenizer_config\.json",
        ),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {}}}}, r"added_tokens_decoder has a malformed entry 'x'"),
        ({"config": {"eos_token_id": 10}}, r"config\.json: eos_token_id is 10, outside the vocabulary of 10"),
    ],
)
def test_errors(write: Write, files: Json, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        entries(write(**files))
    assert "\n" not in str(caught.value)


@pytest.mark.unit
def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer found"):
        entries(tmp_path)


# --- SentencePiece ---

STOCK_SENTENCEPIECE = """
import json, sys
tree, directory, size = sys.argv[1:]
sys.path[:0] = [tree, tree + "/gguf-py"]
from pathlib import Path
import gguf
from conversion.base import TextModel
model = object.__new__(type("Model", (TextModel,), {"model_arch": gguf.MODEL_ARCH.QWEN35}))
model.dir_model, model.hparams = Path(directory), {"vocab_size": int(size)}
model.gguf_writer = gguf.GGUFWriter(directory + "/stock.gguf", "qwen35")
model._set_vocab_sentencepiece()
model.gguf_writer.write_header_to_file()
model.gguf_writer.write_kv_data_to_file()
model.gguf_writer.close()
"""


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    """A checkpoint with a SentencePiece model of 35 pieces, a renamed one and two added tokens."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\nshe sells sea shells by the sea shore\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "tokenizer"), vocab_size=35, minloglevel=2
    )
    (tmp_path / "added_tokens.json").write_text('{"<extra>": 35}')
    decoder = {"36": {"content": "<|im_end|>"}, "34": {"content": "▁renamed"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    (tmp_path / "config.json").write_text('{"eos_token_id": 36}')
    return tmp_path


def test_sentencepiece_equals_the_stock_converter(pieces: Path, stock_tree: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", STOCK_SENTENCEPIECE, str(stock_tree), str(pieces), "40"], check=True, capture_output=True
    )
    fields = GGUFReader(pieces / "stock.gguf").fields
    expected = {k: f.contents() for k, f in fields.items() if k.startswith("tokenizer.")}
    found = entries(pieces, 40)
    found["tokenizer.ggml.scores"] = np.float32(found["tokenizer.ggml.scores"]).tolist()
    assert found == expected
    assert found["tokenizer.ggml.tokens"][34:] == [" renamed", "<extra>", "<|im_end|>", "[PAD37]", "[PAD38]", "[PAD39]"]


@pytest.mark.unit
def test_sentencepiece_beyond_the_vocabulary(pieces: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: token .* outside the vocabulary of 30"):
        entries(pieces, 30)


@pytest.mark.unit
def test_damaged_sentencepiece(pieces: Path) -> None:
    (pieces / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: not a SentencePiece model"):
        entries(pieces, 40)


@pytest.mark.unit
def test_sentencepiece_is_optional(pieces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingDependencyError, match=r"qwen35-gguf\[sentencepiece\]"):
        entries(pieces, 40)
