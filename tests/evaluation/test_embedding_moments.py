"""The moments of an embedding are what transformers' modules answer to an error in it, found by torch's autograd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import MomentsError
from qwen35_gguf.evaluation import collect_moments
from qwen35_gguf.evaluation.sums import embedding_moments
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data
from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.rounding import merge_moments
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.moments import Moments

Factory = Callable[..., Path]

EMBEDDING = "token_embd.weight"
CHUNK, CHUNKS = 32, 3
STEP = 16  # of the tokens whose Jacobians are averaged
READERS = {"attn": ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "q_proj", "k_proj", "v_proj")}
READERS["mlp"] = ("gate_proj", "up_proj")


def random_ids(count: int = CHUNK * CHUNKS, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 2033, count).tolist()


def collected(file: Path, ids: list[int], out: Path, kind: str = "full", **options: object) -> Moments:
    options = {"chunk": CHUNK, "kind": kind, "dataset": "ids", "effects": False} | options
    return collect_moments.collect(file, lambda _model: ids, out, **options)


def answers(source: Path, ids: list[int]) -> np.ndarray:
    """J^T J of what reads the stream, where J is the Jacobian of its results in relation to their usual size."""
    config = transformers.AutoConfig.from_pretrained(source)
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    model.requires_grad_(False)
    streams: dict[torch.nn.Module, list[torch.Tensor]] = {}
    layers = [module for module in model.modules() if type(module).__name__ == "Qwen3_5DecoderLayer"]
    for layer in layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.register_forward_pre_hook(lambda module, inputs: streams.setdefault(module, []).append(inputs[0][0]))
    with torch.no_grad():
        for start in range(0, len(ids), CHUNK):
            model(input_ids=torch.tensor([ids[start : start + CHUNK]]))
    total = np.zeros(())
    sizes = {norm: torch.cat(rows) for norm, rows in streams.items()}
    largest = max(float((1 / rows.square().mean(1)).mean()) for rows in sizes.values())
    for layer in layers:
        for norm, parent in ((layer.input_layernorm, "attn"), (layer.post_attention_layernorm, "mlp")):
            if (1 / sizes[norm].square().mean(1)).mean() < embedding_moments.LEAST * largest:
                continue
            modules = [one for name, one in layer.named_modules() if name.endswith(READERS[parent])]
            for module in modules:
                white = torch.eye(module.in_features) * module.in_features**0.5
                usual = module(norm(white)).square().mean()  # of inputs of size 1, over all directions
                for token in sizes[norm][::STEP]:
                    jacobian = torch.autograd.functional.jacobian(lambda x: module(norm(x)), token)  # noqa: B023
                    total = total + (jacobian.T @ jacobian / usual).double().numpy()
    return total / len(ids[::STEP])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"value_heads_per_key": 2, "mtp": False, "embedding_std": 0.3}])
def test_they_are_what_transformers_answers_to_an_error(
    checkpoint: Factory, tmp_path: Path, options: dict[str, object]
) -> None:
    source, ids = checkpoint(tied=False, **options), random_ids()
    (file,) = hf_to_gguf.convert(source, "F32", tmp_path, vision=False)
    moments = collected(file, ids, tmp_path / "m.gguf")
    found = moments.sums(EMBEDDING)[0] / moments.counts(EMBEDDING)[0]
    expected = answers(source, ids)
    assert moments.counts(EMBEDDING).tolist() == [CHUNK * CHUNKS]
    assert moments.shrinking(EMBEDDING) == 0
    # A norm removes the direction of the stream, one of all; transformers' is in the expectation only.
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    errors = np.random.default_rng(1).normal(size=(50, len(found)))
    ratio = np.einsum("ij,jk,ik->i", errors, found, errors) / np.einsum("ij,jk,ik->i", errors, expected, errors)
    np.testing.assert_allclose(ratio, 1.0, atol=0.1)


@pytest.fixture(scope="module")
def untied(checkpoint: Factory, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    source = checkpoint(tied=False)
    return source, hf_to_gguf.convert(source, "F32", tmp_path_factory.mktemp("untied"), vision=False)[0]


def test_blocks_are_those_of_the_whole_matrix_and_parts_add_up(untied: tuple[Path, Path], tmp_path: Path) -> None:
    ids = random_ids()
    full, block = (collected(untied[1], ids, tmp_path / f"{kind}.gguf", kind) for kind in ("full", "block"))
    whole = full.sums(EMBEDDING)[0]
    for number, part in enumerate(block.sums(EMBEDDING)[0]):
        span = slice(256 * number, min(256 * (number + 1), len(whole)))
        width = span.stop - span.start
        np.testing.assert_allclose(part[:width, :width], whole[span, span], rtol=1e-4, atol=1e-4 * whole.max())
        assert not part[width:].any()
    np.testing.assert_allclose(full.squares(EMBEDDING)[0], np.diagonal(whole), rtol=1e-6)
    parts = [
        collected(untied[1], own, tmp_path / f"{number}.gguf") for number, own in enumerate((ids[:CHUNK], ids[CHUNK:]))
    ]
    merge_moments.join(parts, tmp_path / "joined.gguf")
    joined = files.read(tmp_path / "joined.gguf")
    np.testing.assert_allclose(joined.sums(EMBEDDING)[0], whole, rtol=1e-3, atol=1e-4 * whole.max())
    assert joined.shrinking(EMBEDDING) == 0


@pytest.mark.parametrize("method", ["block", "full"])
def test_a_conversion_rounds_the_embedding_by_them(untied: tuple[Path, Path], tmp_path: Path, method: str) -> None:
    source, reference = untied
    moments = collected(reference, random_ids(), tmp_path / "m.gguf")
    form = moments.matrix(EMBEDDING, 0, moments.sums(EMBEDDING).shape[-1])[0].astype(np.float64)
    original = rows_of(reference)
    errors = []
    for name, how in (("plain", {}), ("rounded", {"rounding": method, "moments": moments.path})):
        (file,) = hf_to_gguf.convert(source, "Q4_K_M", tmp_path / name, vision=False, **how)
        assert header_type(file) in (Type.Q4_K, Type.Q5_0, Type.Q4_0, Type.IQ4_NL, Type.Q8_0)
        error = (rows_of(file) - original).astype(np.float64)
        errors.append(float(np.einsum("ij,jk,ik->", error, form, error, optimize=True)))
    assert errors[1] < 0.95 * errors[0]


def test_a_tied_embedding_keeps_the_moments_of_the_output(checkpoint: Factory, tmp_path: Path) -> None:
    (file,) = hf_to_gguf.convert(checkpoint(tied=True), "F32", tmp_path, vision=False)
    found = collected(file, random_ids(), tmp_path / "m.gguf")
    assert EMBEDDING in found.names
    assert not embedding_moments.is_looked_up_only(read_header(file))
    # The sums are of inputs: their diagonal is that of the importance matrix.
    np.testing.assert_allclose(np.diagonal(found.sums(EMBEDDING)[0]), found.squares(EMBEDDING)[0], rtol=1e-3)


def test_experts_read_as_many_rows_as_a_token_uses(checkpoint: Factory, tmp_path: Path) -> None:
    (file,) = hf_to_gguf.convert(checkpoint(moe=True, mtp=False, tied=False), "F32", tmp_path, vision=False)
    header = read_header(file)
    layers = int(header.value(f"{header.architecture}.block_count"))
    only = [0.0, 1.0] + [0.0] * (2 * layers - 2)  # the norm before the experts of the first layer
    found = embedding_moments.form(header, only, 1, "full").sums[0]
    used = int(header.value(f"{header.architecture}.expert_used_count"))
    experts = int(header.value(f"{header.architecture}.expert_count"))
    # Each row that a token multiplies counts 1: trace S is their number.
    own = [header.tensor(f"blk.0.ffn_{kind}_exps.weight").shape[1] for kind in ("gate", "up")]
    shared = [header.tensor(f"blk.0.ffn_{kind}_shexp.weight").shape[0] for kind in ("gate", "up")]
    np.testing.assert_allclose(np.trace(found), used * sum(own) + sum(shared) + experts, rtol=1e-4)


def test_a_file_without_a_norm_is_refused(untied: tuple[Path, Path]) -> None:
    with pytest.raises(Exception, match=r"has no blk\.9\.attn_norm\.weight"):
        embedding_moments.form(read_header(untied[1]), [0.0] * 18 + [1.0], 1, "full")


def test_damaged_moments_of_an_embedding_are_refused(untied: tuple[Path, Path], tmp_path: Path) -> None:
    moments = collected(untied[1], random_ids(), tmp_path / "m.gguf")

    def entries():  # type: ignore[no-untyped-def]
        for name in moments.names:
            entry = moments.entry(name)
            yield entry._replace(sums=-entry.sums) if name == EMBEDDING else entry

    files.write(tmp_path / "bad.gguf", moments.provenance, files.widths_of(moments), entries())
    with pytest.raises(MomentsError, match=f"{EMBEDDING}: has indefinite moments"):
        hf_to_gguf.convert(untied[0], "Q4_K_M", tmp_path, vision=False, rounding="full", moments=tmp_path / "bad.gguf")


def rows_of(file: Path) -> np.ndarray:
    header = read_header(file)
    tensor = header.tensor(EMBEDDING)
    return kernels.dequantize(tensor_data(header, tensor, map_data(header)), tensor.type, tensor.shape[-1])


def header_type(file: Path) -> Type:
    return read_header(file).tensor(EMBEDDING).type
