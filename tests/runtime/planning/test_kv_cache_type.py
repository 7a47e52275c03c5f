"""The type of the KV cache that is chosen reads the least within the bound, and only where kernels read it fast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from oracles import allocator
from qwen35_gguf import Qwen35
from qwen35_gguf.commands.run.plan import command
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import ContextSpec, MemoryRequest
from qwen35_gguf.runtime.planning import kv_cache_type
from qwen35_gguf.runtime.planning.kv_cache_type import BOUND, DIVERGENCE, fastest_kv_type, with_kv_type
from qwen35_gguf.runtime.planning.placement_units import units_of


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return allocator.sparse_model(tmp_path_factory.mktemp("shapes") / "0.8b.gguf", "0.8b")


@pytest.fixture(scope="module")
def header(file: Path) -> GgufHeader:
    return read_header(file)


def asked(n_ctx: int, kv_type: str = "f16") -> MemoryRequest:
    return MemoryRequest(ContextSpec(n_ctx, kv_type=kv_type))


def bytes_per_token(header: GgufHeader, request: MemoryRequest) -> int:
    return sum(unit.bytes_per_token for unit in units_of(header, request).units)


def test_a_long_context_is_quantized_where_kernels_read_it(header: GgufHeader) -> None:
    chosen = fastest_kv_type(header, asked(131072), kernels=True)
    assert chosen != "f16"
    assert DIVERGENCE[chosen] <= BOUND
    assert bytes_per_token(header, asked(131072, chosen)) < 0.8 * bytes_per_token(header, asked(131072))


def test_a_short_context_stays_as_it_is(header: GgufHeader) -> None:
    assert fastest_kv_type(header, asked(256), kernels=True) == "f16"


def test_without_kernels_nothing_is_quantized(header: GgufHeader) -> None:
    assert fastest_kv_type(header, asked(131072), kernels=False) == "f16"


@given(n_ctx=st.integers(256, 262144), bound=st.floats(0, 1e-2))
def test_the_bound_holds_and_nothing_is_lost(header: GgufHeader, n_ctx: int, bound: float) -> None:
    chosen = fastest_kv_type(header, asked(n_ctx), kernels=True, bound=bound)
    assert chosen == "f16" or DIVERGENCE[chosen] <= bound
    assert bytes_per_token(header, asked(n_ctx, chosen)) <= bytes_per_token(header, asked(n_ctx))


def test_a_type_that_is_given_stays(header: GgufHeader) -> None:
    request = asked(131072, "q4_1")
    assert with_kv_type(header, request, on_cpu=True) is request
    auto = replace(request, context=replace(request.context, kv_type="auto"))
    assert with_kv_type(header, auto, on_cpu=False).context.kv_type == "f16"


def test_the_plan_follows_the_choice(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache_type, "attention_kernels", lambda: True)
    sizes = {}
    for kv_type in ("auto", "f16"):
        done = CliRunner().invoke(
            command, [str(file), "--ctx", "131072", "--ram", "32GB", "--kv-type", kv_type, "--json"]
        )
        plan = json.loads(done.stdout)
        sizes[plan["kv_type"]] = plan["usage"][0]["parts"]["KV cache"]
    (quantized,) = sizes.keys() - {"f16"}
    assert sizes[quantized] < 0.6 * sizes["f16"]


def test_a_model_is_loaded_with_what_is_chosen(files: list[Path]) -> None:
    with Qwen35(files[0], kv_type="auto", n_ctx=1024) as model:
        assert model.generate("Hello", max_tokens=4, temperature=0)
