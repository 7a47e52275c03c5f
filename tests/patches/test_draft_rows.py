"""An MTP head limited to the first rows of the output matrix drafts as before among these, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from oracles import allocator, llama
from oracles.rpc import free_port, rpc_server
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.devices import CPU, Offload
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.llama.model import Model, ModelSpec, offload_fields
from qwen35_gguf.runtime.planning import offload

ROWS = 700
runtime = installed_runtime()

pytestmark = pytest.mark.skipif(not (runtime and runtime.patches), reason="a stock llama.cpp drafts from all rows")


def override(arch: str, rows: int) -> object:
    values = (llama_cpp.llama_model_kv_override * 2)()
    values[0].key = f"{arch}.nextn_vocab_size".encode()
    values[0].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
    values[0].value.val_i64 = rows
    return values


@pytest.mark.parametrize(("options", "arch"), [({"seed": 1}, "qwen35"), ({"moe": True, "seed": 3}, "qwen35moe")])
def test_the_first_rows_are_what_all_rows_give(
    checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, object], arch: str
) -> None:
    (gguf,) = hf_to_gguf.convert(checkpoint(**options), "F32", tmp_path, vision=False)
    tokens = np.random.default_rng(1).integers(0, 2033, 40).tolist()
    hidden, every = llama.draft_logits(gguf, tokens)
    hidden_too, first = llama.draft_logits(gguf, tokens, kv_overrides=override(arch, ROWS))
    np.testing.assert_array_equal(hidden, hidden_too)
    np.testing.assert_allclose(first[:, :ROWS], every[:, :ROWS], rtol=1e-5, atol=1e-5)
    assert np.isneginf(first[:, ROWS:]).all()
    assert first.shape == every.shape


def test_more_rows_than_there_are_means_all(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    (gguf,) = hf_to_gguf.convert(checkpoint(seed=1), "F32", tmp_path, vision=False)
    tokens = np.random.default_rng(1).integers(0, 2033, 8).tolist()
    _, every = llama.draft_logits(gguf, tokens)
    _, same = llama.draft_logits(gguf, tokens, kv_overrides=override("qwen35", 10**6))
    np.testing.assert_array_equal(every, same)


def test_the_rows_are_used_where_the_output_matrix_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not copied to the device of the MTP block for each draft, if that is another one."""
    monkeypatch.setenv("GGML_SCHED_DEBUG", "2")
    gguf, port = allocator.sparse_model(tmp_path / "model.gguf", "0.8b", draft_rows=5000), free_port()
    with rpc_server(port):
        devices = tuple(offload.find(endpoints=[f"127.0.0.1:{port}"]))
        fields, keep = offload_fields(Offload(devices, offload.ALL, (), ((r"^(output|token_embd)\.weight", CPU),)))
        small = {"n_ctx": 256, "n_batch": 8, "n_ubatch": 8}
        with (
            allocator.loaded(gguf, weights=False, **fields) as (model, _),
            allocator.made(model, **small) as (main, _),
            allocator.made(model, main=main, **small),
        ):
            log = allocator.log()
        del keep
    splits = [line for line in log.splitlines() if line.startswith("## SPLIT")]
    assert any("RPC" in line for line in splits)
    assert not any("weight" in line for line in splits), splits


@pytest.mark.parametrize("options", [{"seed": 1}, {"moe": True, "seed": 3}])
def test_rows_are_set_between_calls(
    checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, object]
) -> None:
    (gguf,) = hf_to_gguf.convert(checkpoint(**options), "F32", tmp_path, vision=False)
    with Model(gguf, ModelSpec(mtp=True)) as model:
        hidden = np.random.default_rng(1).standard_normal((3, model.n_embd)).astype(np.float32)
        spec = ContextSpec(n_ctx=64, n_batch=16, n_threads=1, n_outputs=3)
        with Context(model, spec, hidden=True) as main, Context(model, spec, mtp_of=main) as head:
            assert head.can_read_fewer_rows
            assert not main.can_read_fewer_rows

            def logits(rows: int) -> np.ndarray:  # type: ignore[type-arg]
                head.read_rows(rows)
                head.clear()
                head.evaluate([5, 6, 7], 0, outputs=3, embd=hidden)
                return head.last_logits(3).copy()

            every = logits(0)
            for rows in (ROWS, 100, 0, ROWS, 10**6):
                found, read = logits(rows), rows or every.shape[1]
                np.testing.assert_allclose(found[:, :read], every[:, :read], rtol=1e-5, atol=1e-5)
                assert np.isneginf(found[:, read:]).all()
