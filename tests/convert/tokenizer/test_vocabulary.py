"""The entries of a vocabulary; those of BPE checkpoints are compared with the stock converter in test_metadata.py."""

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

from qwen35_gguf.convert.tokenizer.vocabulary import read_vocabulary
from qwen35_gguf.errors import CheckpointError, MissingDependencyError

Json = dict[str, Any]
Write = Callable[..., Path]


def entries(directory: Path, vocab_size: int = 10) -> dict[str, Any]:
    return {entry.key: entry.value for entry in read_vocabulary(directory, vocab_size).entries}


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
@pytest.mark.parametrize("merges", [["a b"], [["a", "b"]]])
def test_merges_in_both_forms(write: Write, small_tokenizer: Json, merges: list[object]) -> None:
    tokenizer = small_tokenizer
    tokenizer["model"]["merges"] = merges
    assert entries(write(tokenizer=tokenizer))["tokenizer.ggml.merges"] == ["a b"]


@pytest.mark.unit
def test_spaces_inside_merges(write: Write, small_tokenizer: Json) -> None:
    tokenizer = small_tokenizer
    tokenizer["model"]["merges"] = [["a ", "b"]]
    assert entries(write(tokenizer=tokenizer))["tokenizer.ggml.merges"] == ["aĠ b"]


@pytest.mark.unit
def test_special_ids(write: Write) -> None:
    settings = {"eos_token": {"content": "<|im_end|>"}, "pad_token": "a", "add_bos_token": True, "add_sep_token": True}
    config = {"eos_token_id": 1, "pad_token_id": 2, "text_config": {"bos_token_id": 3, "unk_token_id": [1, 2]}}
    found = read_vocabulary(write(tokenizer_config=settings, config=config), 10).entries
    assert {e.key.removeprefix("tokenizer.ggml."): (e.value, e.type) for e in found if e.key.endswith("token_id")} == {
        "eos_token_id": (4, GGUFValueType.UINT32),  # the settings name it
        "padding_token_id": (0, GGUFValueType.UINT32),  # any token may be named
        "bos_token_id": (3, GGUFValueType.UINT32),  # only there
        "eot_token_id": (1, GGUFValueType.UINT32),  # ends an answer, too, as there is no generation_config.json
    }
    flags = {e.key.removeprefix("tokenizer.ggml."): e.value for e in found if ".add_" in e.key}
    # The post-processor adds nothing, whatever the settings claim.
    assert flags == {"add_bos_token": False, "add_eos_token": False, "add_sep_token": True}


@pytest.mark.unit
def test_a_template_that_adds_bos(write: Write, small_tokenizer: Json) -> None:
    single = [{"SpecialToken": {"id": "[X]"}}, {"Sequence": {"id": "A"}}]
    tokenizer = small_tokenizer | {"post_processor": {"type": "TemplateProcessing", "single": single}}
    assert entries(write(tokenizer=tokenizer, tokenizer_config={"bos_token": "[X]"}))["tokenizer.ggml.add_bos_token"]


def change(tokenizer: Json, path: str, value: object) -> None:
    """Change one value; the path is separated by slashes."""
    *parents, last = path.split("/")
    node: Any = tokenizer
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[last] = value


@pytest.mark.unit
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model/type", "Unigram", r'tokenizer\.json: model\.type is "Unigram"; must be BPE'),
        ("model/vocab/c", 3, r"the tokens 'ab' and 'c' share the id 3"),
        ("model/vocab/c", 10, r"token 'c' has the id 10, outside the vocabulary of 10"),
        ("model/vocab/c", "8", r"token 'c' has the id '8'"),
        ("model/vocab/c", None, r"token 'c' has the id None"),
        ("added_tokens/1/id", 4, r"added_tokens\[1\]\.id is 4; must be different from that of '<\|im_end\|>'"),
        ("added_tokens/0/id", 2, r"the tokens 'Ġ' and '<\|im_end\|>' share the id 2"),
        ("added_tokens/0/content", None, r"added_tokens\[0\]\.content is missing; must be a text"),
        ("added_tokens/0/special", "yes", r'added_tokens\[0\]\.special is "yes"; must be true or false'),
        ("added_tokens", {}, r"added_tokens is \{\}; must be a list"),
        ("model/merges", [["a"]], r'model\.merges\[0\] is \["a"\]; must be a merge'),
        ("normalizer", [], r"normalizer is \[\]; must be an object"),
        ("pre_tokenizer/pretokenizers", 1, r"pre_tokenizer\.pretokenizers is 1; must be a list"),
        ("post_processor", "x", r'post_processor is "x"; must be an object'),
    ],
)
def test_errors_in_tokenizer_json(write: Write, small_tokenizer: Json, path: str, value: object, message: str) -> None:
    change(small_tokenizer, path, value)
    with pytest.raises(CheckpointError, match=message) as caught:
        entries(write())
    assert "\n" not in str(caught.value)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer": "{"}, r"tokenizer\.json: is not valid JSON"),
        ({"tokenizer": "[]"}, r"tokenizer\.json: is \[\]; must be an object"),
        ({"tokenizer_config": "{"}, r"tokenizer_config\.json: is not valid JSON"),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"x": {}}}},
            r"added_tokens_decoder\.x is \{\}",
        ),
        ({"tokenizer_config": {"added_tokens_decoder": [1]}}, r"added_tokens_decoder is \[1\]; must be an object"),
        ({"tokenizer_config": {"added_tokens_decoder": {"4": 5}}}, r"added_tokens_decoder\.4 is 5; must be an object"),
        ({"tokenizer_config": {"eos_token": 5}}, r"eos_token is 5; must be a token"),
        ({"tokenizer_config": {"additional_special_tokens": 5}}, r"additional_special_tokens is 5; must be a list"),
        ({"tokenizer_config": {"extra_special_tokens": [5]}}, r"extra_special_tokens is \[5\]; must be a list"),
        ({"added_tokens": {"<x>": "9"}}, r'added_tokens\.json: <x> is "9"; must be a count'),
        (
            {"special_tokens_map": {"pad_token": ["x"]}},
            r'special_tokens_map\.json: pad_token is \["x"\]; must be a token',
        ),
        ({"config": {"eos_token_id": 10}}, r"config\.json: eos_token_id is 10, outside the vocabulary of 10"),
    ],
)
def test_errors(write: Write, files: Json, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        entries(write(**files))
    assert "\n" not in str(caught.value)


@pytest.mark.unit
def test_vocab_json_with_merges(write: Write, small_tokenizer: Json) -> None:
    settings = {"added_tokens_decoder": {"4": {"content": "<|im_end|>", "special": True}}}
    small_tokenizer["added_tokens"] = []
    expected = entries(write(tokenizer_config=settings))
    (directory := write(tokenizer_config=settings)).joinpath("tokenizer.json").unlink()
    (directory / "vocab.json").write_text(json.dumps(small_tokenizer["model"]["vocab"]))
    with pytest.raises(CheckpointError, match="no tokenizer found"):
        entries(directory)
    (directory / "merges.txt").write_text("#version: 0.2\na b\n")
    assert {k: v for k, v in entries(directory).items() if "add_" not in k} == {
        k: v for k, v in expected.items() if "add_" not in k
    }


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
    with pytest.raises(MissingDependencyError, match=r"pip install sentencepiece"):
        entries(pieces, 40)
