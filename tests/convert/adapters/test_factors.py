"""Factors pass through the tensor map: what is done to them is what is done to their matmul."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inputs.adapters import PREFIX, low_rank, write_adapter
from qwen35_gguf.convert import transforms
from qwen35_gguf.convert.adapters import factors
from qwen35_gguf.convert.adapters.adapter_folder import Adapter, open_adapter
from qwen35_gguf.convert.adapters.factors import gguf_factors
from qwen35_gguf.convert.adapters.fit import Base, fit
from qwen35_gguf.convert.adapters.updates import merge
from qwen35_gguf.convert.checkpoint import Checkpoint, open_checkpoint
from qwen35_gguf.convert.tensor_plan import plan_tensors
from qwen35_gguf.errors import AdapterError

pytestmark = pytest.mark.unit
Make = Callable[..., Path]

MATRICES = {
    "layers.0.linear_attn.in_proj_qkv": (1024, 256),
    "layers.0.linear_attn.in_proj_z": (512, 256),
    "layers.1.linear_attn.in_proj_a": (4, 256),
    "layers.1.linear_attn.in_proj_b": (4, 256),
    "layers.2.linear_attn.out_proj": (256, 512),
    "layers.3.self_attn.q_proj": (512, 256),
    "layers.3.self_attn.o_proj": (256, 256),
    "mtp.layers.0.self_attn.k_proj": (128, 256),
    "mtp.fc": (256, 512),
}
DENSE = {"layers.0.mlp.gate_proj": (512, 256), "layers.3.mlp.down_proj": (256, 512)}


def all_of(matrices: Mapping[str, tuple[int, int]], rank: int = 4) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for seed, (name, (rows, columns)) in enumerate(matrices.items()):
        tensors |= low_rank(name, rows, columns, rank=rank, seed=seed)
    return tensors


def assert_equals_dense(checkpoint: Checkpoint, adapter: Adapter, count: int) -> None:
    """Compare with the dense updates of the source's tensors after part and operations of the tensor map."""
    plan = plan_tensors(checkpoint)
    alpha, found = gguf_factors(adapter, plan.architecture, None, "base")
    by_name = {one.name: one for one in found}
    assert len(by_name) == len(found) == count
    shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    updates = fit(adapter, Base("base", shapes, plan.architecture, plan.architecture.tied)).updates
    for output in plan.text:
        dense = np.concatenate([_dense(output, updates.get(source), shapes[source]) for source in output.sources])
        if output.name not in by_name:
            assert not dense.any(), output.name
            continue
        one = by_name[output.name]
        if output.name == "token_embd.weight":
            product, rank = one.a @ one.b.T, one.b.shape[-1]
        else:
            product, rank = one.b @ one.a, one.b.shape[-1]
        assert product.shape == output.shape, output.name
        np.testing.assert_allclose(alpha / rank * product, dense.reshape(product.shape), atol=2e-6, err_msg=output.name)


def _dense(output: Any, updates: Any, shape: tuple[int, ...]) -> Any:
    base = np.zeros(shape, np.float32)
    dense = output.select(merge(base, updates) if updates else base)
    for operation in output.operations:
        if operation.axis is not None or operation.name == "squeeze":
            dense = operation.apply(dense)
    return dense


@settings(deadline=None, max_examples=60)
@given(
    axis=st.sampled_from([0, 1]),
    key_heads=st.integers(1, 5),
    per_key=st.integers(1, 4),
    head_dim=st.integers(1, 8),
    offset=st.integers(0, 6),
    other=st.integers(1, 5),
    rank=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_factors_pass_through_a_permutation(
    axis: int, key_heads: int, per_key: int, head_dim: int, offset: int, other: int, rank: int, seed: int
) -> None:
    length = offset + key_heads * per_key * head_dim
    rows, columns = (length, other) if axis == 0 else (other, length)
    rng = np.random.default_rng(seed)
    # Whole numbers, so that matmuls are exact.
    a, b = rng.integers(-9, 9, (rank, columns)), rng.integers(-9, 9, (rows, rank))
    operation = transforms.tile_value_heads(axis, key_heads, per_key, head_dim, offset)
    new_a, new_b = factors.through(operation, a, b)
    np.testing.assert_array_equal(new_b @ new_a, operation.apply(b @ a))


@pytest.mark.parametrize("operation", [transforms.plus_one, transforms.neg_exp, transforms.squeeze])
def test_other_operations_are_refused(operation: transforms.Operation) -> None:
    with pytest.raises(AdapterError, match=operation.name):
        factors.through(operation, np.ones((1, 4)), np.ones((4, 1)))


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_every_matrix_equals_the_dense_reference(checkpoint: Make, tmp_path: Path, heads: int) -> None:
    base = open_checkpoint(checkpoint(value_heads_per_key=heads, tied=False, vision=False))
    shapes = {name: base.tensors[f"{name}.weight"].shape for name in (*MATRICES, *DENSE, "lm_head")}
    prefix = "base_model.model."
    embedding = low_rank("embed_tokens", 256, base.tensors["embed_tokens.weight"].shape[0], prefix=prefix)
    named = {k.replace("lora_", "lora_embedding_").removesuffix(".weight"): v for k, v in embedding.items()}
    folder = write_adapter(tmp_path / "a", all_of(shapes) | named)
    assert_equals_dense(base, open_adapter(folder), len(shapes) + 1)


def test_ranks_and_scales_of_patterns(checkpoint: Make, tmp_path: Path) -> None:
    base = open_checkpoint(checkpoint(vision=False))
    tensors = all_of(MATRICES) | low_rank("layers.3.self_attn.o_proj", 256, 256, rank=2)
    config = {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"q_proj": 3}, "use_rslora": True}
    assert_equals_dense(base, open_adapter(write_adapter(tmp_path / "a", tensors, **config)), len(MATRICES))


def test_alpha_of_the_file_leaves_most_factors_as_they_are(checkpoint: Make, tmp_path: Path) -> None:
    base = plan_tensors(open_checkpoint(checkpoint(vision=False))).architecture
    tensors = all_of(MATRICES)
    adapter = open_adapter(write_adapter(tmp_path / "a", tensors, use_rslora=True, alpha_pattern={"q_proj": 3}))
    alpha, found = gguf_factors(adapter, base, None, "base")
    assert alpha == 8 * 2  # alpha * sqrt(rank)
    unchanged = next(one for one in found if one.name == "blk.3.attn_output.weight")
    np.testing.assert_array_equal(unchanged.b, tensors[f"{PREFIX}layers.3.self_attn.o_proj.lora_B.weight"])


def test_experts_equal_the_dense_reference(checkpoint: Make, tmp_path: Path) -> None:
    base = open_checkpoint(checkpoint(moe=True, vision=False))
    stem = f"{PREFIX}layers.0.mlp.experts"
    tensors = low_rank("layers.0.mlp.experts.base_layer", 512, 256, rank=32, seed=1)
    tensors |= low_rank("layers.0.mlp.experts", 256, 256, rank=32, seed=2)
    tensors |= low_rank("layers.1.mlp.experts.5.up_proj", 256, 256, seed=3)
    tensors |= low_rank("layers.1.mlp.experts.2.gate_proj", 256, 256, seed=4)
    tensors |= low_rank("layers.1.mlp.gate", 8, 256, seed=5) | low_rank("layers.2.mlp.shared_expert_gate", 1, 256)
    assert f"{stem}.lora_A.weight" in tensors
    assert_equals_dense(base, open_adapter(write_adapter(tmp_path / "a", tensors)), 3 + 2 + 2)


# Name: options of the checkpoint, tensors, configuration, what the message contains.
O_PROJ = low_rank("layers.3.self_attn.o_proj", 256, 256)
EMBEDDING = {
    f"{PREFIX}embed_tokens.lora_embedding_A": np.ones((4, 2048), np.float32),
    f"{PREFIX}embed_tokens.lora_embedding_B": np.ones((256, 4), np.float32),
}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "norm": ({}, {f"{PREFIX}norm.weight": np.ones(256, np.float32)}, {}, "norm.weight is not a low-rank update"),
    "decay": ({}, {f"{PREFIX}layers.0.linear_attn.A_log": np.ones(4, np.float32)}, {}, "A_log is not a low-rank"),
    "saved head": ({}, {"lm_head.weight": np.ones((2048, 256), np.float32)}, {}, "lm_head.weight is not a low-rank"),
    "tokens": (
        {},
        {f"{PREFIX}embed_tokens.token_adapter.trainable_tokens_delta": np.ones((1, 256), np.float32)},
        {"trainable_token_indices": [5]},
        "trainable_tokens_delta is not a low-rank",
    ),
    "dora": ({}, O_PROJ, {"use_dora": True}, "use_dora is true"),
    "tied embedding": ({}, EMBEDDING, {}, "lora_embedding_A is for the tied embedding"),
    "tied head": ({}, low_rank("lm_head", 2048, 256, prefix="base_model.model."), {}, "is for the tied embedding"),
    "nothing": (
        {},
        {f"{PREFIX}embed_tokens.base_layer.weight": np.ones((2048, 256), np.float32)},
        {},
        "changes nothing",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_gguf_lora_cannot_hold_is_refused(checkpoint: Make, tmp_path: Path, case: str) -> None:
    options, tensors, config, wanted = REFUSED[case]
    base = plan_tensors(open_checkpoint(checkpoint(vision=False, **options))).architecture
    with pytest.raises(AdapterError) as error:
        gguf_factors(open_adapter(write_adapter(tmp_path / "a", tensors, **config)), base, None, "base")
    assert wanted in str(error.value)
    assert "\n" not in str(error.value)
