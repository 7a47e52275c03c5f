"""GGUF LoRAs at run time: applied in all contexts, refused in one line before llama.cpp could abort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType
from gguf.quants import quantize

from inputs.adapters import low_rank, write_adapter
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.convert.adapters.adapter_gguf import convert_adapter
from qwen35_gguf.errors import AdapterError, MessageError, ModelError
from qwen35_gguf.gguf_file.header import TensorInfo
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.gguf_file.writer import write_gguf
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.options import LoadOptions

Make = Callable[..., Path]
ATTENTION = {"layers.3.self_attn.o_proj": (256, 256), "layers.0.linear_attn.out_proj": (256, 512)}
GREEDY = {"temperature": 0, "max_tokens": 24, "seed": 0}


def adapter_of(base: Path, folder: Path, matrices: dict[str, tuple[int, int]], *, seed: int = 0) -> Path:
    tensors: dict[str, Any] = {}
    for number, (name, (rows, columns)) in enumerate(matrices.items()):
        tensors |= {key: 3 * value for key, value in low_rank(name, rows, columns, seed=seed + number).items()}
    return convert_adapter(write_adapter(folder, tensors), base, folder / "lora.gguf")


def generate(gguf: Path, adapters: Sequence[Any] = (), prompt: str = "The quick brown fox", **options: Any) -> str:
    with Qwen35(gguf, n_ctx=512, n_threads=1, adapters=adapters, **({"draft": 0} | options)) as model:
        return model.generate(prompt, **GREEDY).text


@pytest.fixture
def base(checkpoint: Make) -> Path:
    return checkpoint(tied=False)


def test_adapters_change_answers_by_their_scale(base: Path, files: list[Path], tmp_path: Path) -> None:
    lora = adapter_of(base, tmp_path / "a", ATTENTION)
    plain = generate(files[0])
    assert generate(files[0], [lora]) != plain
    assert generate(files[0], [(lora, 0.0)]) == plain
    assert generate(files[0], [(lora, 0.5), (lora, 0.5)]) == generate(files[0], [(lora, 1.0)])


def test_answers_are_those_of_the_merged_file(base: Path, files: list[Path], tmp_path: Path) -> None:
    lora = adapter_of(base, tmp_path / "a", ATTENTION)
    (merged,) = hf_to_gguf.convert(base, "F32", tmp_path, vision=False, adapters=[tmp_path / "a"])
    assert generate(files[0], [lora]) == generate(merged)


@pytest.mark.parametrize("matrices", [ATTENTION, {"mtp.layers.0.self_attn.o_proj": (256, 256), "lm_head": (2048, 256)}])
def test_drafts_do_not_change_answers(
    base: Path, files: list[Path], tmp_path: Path, matrices: dict[str, tuple[int, int]]
) -> None:
    lora = adapter_of(base, tmp_path / "a", matrices)
    assert generate(files[0], [lora], draft=2) == generate(files[0], [lora], draft=0)


def test_saved_states_belong_to_their_adapters(base: Path, files: list[Path], tmp_path: Path) -> None:
    lora = adapter_of(base, tmp_path / "a", ATTENTION)
    prompt = "one two three four five six seven eight nine ten " * 12
    wanted = {scale: generate(files[0], [(lora, scale)], prompt) for scale in (0.0, 1.0)}
    for _ in range(2):
        for scale, text in wanted.items():
            assert generate(files[0], [(lora, scale)], prompt, state_dir=tmp_path / "states") == text


def write_lora(
    path: Path,
    tensors: dict[str, tuple[int, ...]],
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    stored: Sequence[np.ndarray] | None = None,
    alpha: float | None = 8.0,
    **changes: Any,
) -> Path:
    """Write a GGUF LoRA by hand, with zeros unless its bytes are given; None leaves an entry out."""
    known = {"general.architecture": "qwen35", "general.type": "adapter", "adapter.type": "lora"}
    entries = [KeyValue.of(k, v, GGUFValueType.STRING) for k, v in (known | changes).items() if v is not None]
    if alpha is not None:
        entries.append(KeyValue.of("adapter.lora.alpha", alpha, GGUFValueType.FLOAT32))
    stored = [np.zeros(shape, np.float32) for shape in tensors.values()] if stored is None else stored
    data = [(TensorInfo(n, s, kind), rows) for (n, s), rows in zip(tensors.items(), stored, strict=True)]
    write_gguf(path, entries, data)
    return path


A, B = "blk.3.attn_output.weight.lora_a", "blk.3.attn_output.weight.lora_b"
O_PROJ = {A: (4, 256), B: (256, 4)}
# Name: tensors, entries, what the message contains.
FAULTS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any], str]] = {
    "no adapter": (O_PROJ, {"general.type": "model"}, "is not an adapter"),
    "no type": (O_PROJ, {"general.type": None}, "is not an adapter"),
    "another kind": (O_PROJ, {"adapter.type": "control_vector"}, "adapter.type is 'control_vector'"),
    "another architecture": (O_PROJ, {"general.architecture": "qwen35moe"}, "is for qwen35moe"),
    "another family": (O_PROJ, {"general.architecture": "llama"}, "is for llama"),
    "A alone": ({"blk.3.attn_output.weight.lora_a": (4, 256)}, {}, "lora_a has no blk.3.attn_output.weight.lora_b"),
    "unknown tensor": ({"x.lora_a": (4, 256), "x.lora_b": (256, 4)}, {}, "x is not in"),
    "layer too many": ({k.replace("blk.3", "blk.9"): v for k, v in O_PROJ.items()}, {}, "is not in"),
    "not a factor": (O_PROJ | {"blk.3.attn_norm.weight": (256,)}, {}, "attn_norm.weight is not a factor"),
    "columns": (O_PROJ | {"blk.3.attn_output.weight.lora_a": (4, 128)}, {}, "for another model"),
    "ranks": (O_PROJ | {"blk.3.attn_output.weight.lora_a": (8, 256)}, {}, "for another model"),
    "a norm": ({"blk.3.attn_norm.weight.lora_a": (4, 256), "blk.3.attn_norm.weight.lora_b": (1, 4)}, {}, "attn_norm"),
    "nothing": ({}, {}, "has no tensors"),
    "transposed": ({A: (256, 4), B: (4, 256)}, {}, "for another model"),
    "exchanged": ({A: (256, 4), B: (256, 4)}, {}, "for another model"),
    "in a row": ({A: (1024,), B: (1024,)}, {}, "for another model"),
    "A in a row": (O_PROJ | {A: (256,)}, {}, "for another model"),
    "in three": ({A: (2, 4, 256), B: (2, 256, 4)}, {}, "for another model"),
    "in three of one": ({A: (1, 4, 256), B: (1, 256, 4)}, {}, "for another model"),
    "in four": ({A: (1, 1, 4, 256), B: (1, 1, 256, 4)}, {}, "for another model"),
    "rank 0": ({A: (0, 256), B: (256, 0)}, {}, "lora_a is empty, [0, 256]"),
    "B alone": ({B: (256, 4)}, {}, "lora_b has no blk.3.attn_output.weight.lora_a"),
    "a name of a suffix": ({".lora_a": (4, 256), ".lora_b": (256, 4)}, {}, "is not in"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_by_name(files: list[Path], tmp_path: Path, fault: str) -> None:
    tensors, entries, wanted = FAULTS[fault]
    lora = write_lora(tmp_path / "lora.gguf", tensors, **entries)
    with pytest.raises(AdapterError) as error:
        Qwen35(files[0], adapters=[lora])
    assert wanted in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("type_", ["F64", "I8", "I32", "Q4_0", "Q4_K", "IQ4_NL", "MXFP4"])
def test_factors_of_other_types_are_refused(files: list[Path], tmp_path: Path, type_: str) -> None:
    kind, shapes = GGMLQuantizationType[type_], {A: (256, 256), B: (256, 256)}
    stored = [np.zeros(TensorInfo(name, shape, kind).nbytes, np.uint8) for name, shape in shapes.items()]
    lora = write_lora(tmp_path / "lora.gguf", shapes, kind, stored)
    with pytest.raises(AdapterError, match=f"lora_a is {type_}; must be F32, F16, BF16 or Q8_0"):
        Qwen35(files[0], adapters=[lora])


@pytest.mark.parametrize("alpha", [np.nan, np.inf, -np.inf])
def test_an_alpha_that_is_not_finite_is_refused(files: list[Path], tmp_path: Path, alpha: float) -> None:
    with pytest.raises(AdapterError, match=r"adapter\.lora\.alpha is .*; must be a number"):
        Qwen35(files[0], adapters=[write_lora(tmp_path / "lora.gguf", O_PROJ, alpha=alpha)])


@pytest.mark.parametrize(("rank", "alpha"), [(1, 0.0), (4, None), (5, -8.0), (600, 8.0), (4, 3e38)])
def test_ranks_and_alphas_of_zeros_change_nothing(
    files: list[Path], tmp_path: Path, rank: int, alpha: float | None
) -> None:
    """Also a rank that is larger than the matrix, and an alpha of 0, which llama.cpp takes for none."""
    lora = write_lora(tmp_path / "lora.gguf", {A: (rank, 256), B: (256, rank)}, alpha=alpha)
    assert generate(files[0], [lora]) == generate(files[0])


@pytest.mark.parametrize(("value", "alpha", "scale"), [(1.0, 3e38, 1.0), (1e30, 8.0, 1.0), (1e36, 8.0, 1000.0)])
def test_updates_that_become_infinite_are_an_error(
    files: list[Path], tmp_path: Path, value: float, alpha: float, scale: float
) -> None:
    rng = np.random.default_rng(0)
    stored = [(value * rng.normal(size=shape)).astype(np.float32) for shape in O_PROJ.values()]
    lora = write_lora(tmp_path / "lora.gguf", O_PROJ, stored=stored, alpha=alpha)
    with pytest.raises(ModelError, match="computes numbers that are not finite"):
        generate(files[0], [(lora, scale)])


@pytest.mark.parametrize(("type_", "number"), [("F32", np.nan), ("F16", np.inf), ("BF16", -np.inf), ("Q8_0", np.nan)])
def test_numbers_that_are_not_finite_are_refused(files: list[Path], tmp_path: Path, type_: str, number: float) -> None:
    kind, path = GGMLQuantizationType[type_], tmp_path / "lora.gguf"
    a, b = (np.zeros(shape, np.float32) for shape in ((32, 256), (256, 32)))
    stored = [quantize(factor, kind).view(np.uint8).copy() for factor in (a, b)]
    of_number = GGMLQuantizationType.F16 if type_ == "Q8_0" else kind  # of Q8_0 it is a scale
    one = quantize(np.full((1, 1), number, np.float32), of_number).view(np.uint8)[0]
    stored[1][7, : len(one)] = one
    shapes = dict(zip(O_PROJ, (a.shape, b.shape), strict=True))
    write_lora(path, shapes, kind=kind, stored=stored)
    with pytest.raises(AdapterError, match=r"attn_output\.weight\.lora_b has NaN or infinite numbers"):
        Qwen35(files[0], adapters=[path])


def test_embedding_of_a_tied_model_is_refused_instead_of_an_abort(checkpoint: Make, tmp_path: Path) -> None:
    (gguf,) = hf_to_gguf.convert(checkpoint(vision=False), "Q8_0", tmp_path)
    pair = {"token_embd.weight.lora_a": (2048, 4), "token_embd.weight.lora_b": (256, 4)}
    with pytest.raises(AdapterError, match="embedding of .* and its output matrix"):
        Qwen35(gguf, adapters=[write_lora(tmp_path / "lora.gguf", pair)])


def test_missing_and_misplaced_files(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="No such file"):
        Qwen35(files[0], adapters=[tmp_path / "absent.gguf"])
    folder = write_adapter(tmp_path / "peft", low_rank("layers.3.self_attn.o_proj", 256, 256))
    with pytest.raises(AdapterError, match="is a PEFT adapter; convert it with `qwen35 convert-adapter`"):
        Qwen35(files[0], adapters=[folder])
    with pytest.raises(ModelError, match="is an adapter, not a model; name its base"):
        Qwen35(write_lora(tmp_path / "lora.gguf", O_PROJ))


@pytest.mark.parametrize("value", [5, [5], [("a", "b")], [("a", float("nan"))], [("a", 1, 2)], {"a": 1}, [None]])
def test_malformed_options(value: Any) -> None:
    with pytest.raises(MessageError, match="adapters"):
        LoadOptions(Path("model.gguf"), adapters=value)


def test_forms_of_the_option() -> None:
    for value in ("a.gguf", Path("a.gguf"), ["a.gguf"], [("a.gguf", 1)], (Path("a.gguf"),)):
        assert LoadOptions(Path("model.gguf"), adapters=value).adapters == ((Path("a.gguf"), 1.0),)
