"""Estimates from a header are what llama.cpp plans and allocates, without llama.cpp."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs.headers import with_values
from oracles import allocator
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import ContextError, ModelError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import ContextSpec, MemoryRequest
from qwen35_gguf.runtime.engine.drafts.mtp import Drafter, draft, head_context
from qwen35_gguf.runtime.llama.context import Context, context_fields
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from qwen35_gguf.runtime.planning import memory

MIB = 1 << 20
CASES = {
    "plain": ContextSpec(4096),
    "long": ContextSpec(131072),
    "drafting": ContextSpec(8192, n_rs_seq=3, n_outputs=4),
    "small batch": ContextSpec(5000, 64, kv_type="q8_0"),
    "batch beyond the context": ContextSpec(700, 2048, kv_type="q4_1"),
    "hardly any context": ContextSpec(100, n_seq=3, n_outputs=3),
    "four sequences": ContextSpec(16384, n_seq=4, kv_type="bf16"),
    "F32 cache, many logits": ContextSpec(20480, 256, kv_type="f32", n_outputs=100, n_seq=2),
}
SMALLEST = 0.0051  # llama.cpp gives two decimals
TOTAL = 0.05  # of the formula, of all that a model needs
COMPUTE = 0.2  # and of the compute buffers alone: they are a small part


@pytest.fixture(scope="module")
def tiny(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tuple(hf_to_gguf.convert(checkpoint(tied=False, seed=3), "Q8_0", tmp_path_factory.mktemp("tiny")))


def contexts(model: Any, spec: ContextSpec) -> tuple[dict[str, float], dict[str, float]]:
    """What llama.cpp reports for the main model's context and for the MTP head's, in MiB by kind of buffer."""
    head = context_fields(replace(spec, n_rs_seq=0, n_outputs=1))
    with (
        allocator.made(model, **context_fields(spec)) as (main, reported),
        allocator.made(model, main=main, **head) as (_, drafter),
    ):
        return reported, drafter


def parts(
    found: memory.Estimate, main: dict[str, float], drafter: dict[str, float]
) -> Iterator[tuple[str, int, float]]:
    """Ours in bytes and llama.cpp's in MiB. The outputs are as large as the first call makes them, not at the start."""
    yield "kv_cache", found.kv_cache, main["KV"]
    yield "recurrent_states", found.recurrent_states, main["RS"]
    yield "mtp_kv_cache", found.mtp_kv_cache, drafter["KV"]


def compare(found: memory.Estimate, main: dict[str, float], drafter: dict[str, float], label: Any) -> float:
    """Check the exact parts, the compute buffers, and the total; return the error of the compute buffers."""
    for part, ours, theirs in parts(found, main, drafter):
        assert ours / MIB == pytest.approx(theirs, rel=1e-4, abs=SMALLEST), (label, part)
    ours, theirs = (found.compute + found.mtp_compute) / MIB, main["compute"] + drafter["compute"]
    assert ours == pytest.approx(theirs, rel=COMPUTE), label
    total = found.total / MIB
    assert total == pytest.approx(total - ours + theirs, rel=TOTAL), label
    return ours / theirs - 1


@pytest.mark.parametrize("name", allocator.SHAPES)
def test_real_shapes_need_what_llama_cpp_plans(real: Callable[[str], Path], name: str) -> None:
    path = real(name)
    header = read_header(path)
    with allocator.loaded(path, weights=False) as (model, _):
        for label, spec in CASES.items():
            compare(memory.estimate(header, MemoryRequest(spec, mtp=True)), *contexts(model, spec), label)


@pytest.mark.parametrize("name", ["0.8b", "9b", "35b-a3b"])
def test_the_formula_over_contexts_batches_and_kv_types(real: Callable[[str], Path], name: str) -> None:
    path = real(name)
    header = read_header(path)
    errors = []
    with allocator.loaded(path, weights=False) as (model, _):
        for n_ctx, n_batch, kv_type in itertools.product((4096, 32768, 262144), (64, 512, 2048), ("f16", "q8_0")):
            spec = ContextSpec(n_ctx, n_batch, kv_type=kv_type, n_outputs=5)
            main, drafter = contexts(model, spec)
            errors.append(compare(memory.estimate(header, MemoryRequest(spec, mtp=True)), main, drafter, spec))
            without = memory.estimate(header, MemoryRequest(spec))
            assert without.mtp_compute == 0
            assert without.compute / MIB == pytest.approx(main["compute"], rel=COMPUTE), spec
    assert max(map(abs, errors)) < 0.1


@pytest.mark.parametrize(
    ("name", "options"), [("4b", {"draft_rows": 100000}), ("35b-a3b", {"draft_rows": 5000, "merged": True})]
)
def test_variants_of_real_shapes(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = allocator.sparse_model(tmp_path / "variant.gguf", name, **options)
    header = read_header(path)
    assert memory.draft_vocab_size(header, patched=True) == options["draft_rows"]
    with allocator.loaded(path, weights=False) as (model, _):
        for label, spec in CASES.items():
            compare(memory.estimate(header, MemoryRequest(spec, mtp=True)), *contexts(model, spec), label)


@pytest.mark.parametrize("options", [{}, {"moe": True, "seed": 6}, {"value_heads_per_key": 3, "seed": 4}], ids=str)
def test_tiny_models_need_what_llama_cpp_allocates(
    checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    path = hf_to_gguf.convert(checkpoint(**options), "Q4_K_M", tmp_path, vision=False)[0]
    header = read_header(path)
    with allocator.loaded(path, weights=True) as (model, reported):
        for label, spec in CASES.items():
            found = memory.estimate(header, MemoryRequest(spec, mtp=True))
            # each tensor begins at a multiple of 32, and copies have a buffer beside the mapped file
            weights = (found.weights + 2 * found.repacked) / MIB
            assert weights == pytest.approx(reported["model"], rel=0.001, abs=SMALLEST)
            main, drafter = contexts(model, spec)
            for part, ours, theirs in parts(found, main, drafter):
                assert ours / MIB == pytest.approx(theirs, rel=0.001, abs=SMALLEST), (label, part)
            theirs = main["compute"] + drafter["compute"]
            assert found.total / MIB == pytest.approx(
                (found.total - found.compute - found.mtp_compute) / MIB + theirs, rel=TOTAL
            ), label


def test_outputs_and_mtp_head_count_only_where_they_are_used(tiny: tuple[Path, Path]) -> None:
    header = read_header(tiny[0])
    spec = ContextSpec(512)
    with_head, without = (memory.estimate(header, MemoryRequest(spec, mtp=mtp)) for mtp in (True, False))
    with allocator.loaded(tiny[0], weights=True) as (model, everything), allocator.made(model) as (_, reported):
        assert without.outputs / MIB == pytest.approx(reported["output"], abs=SMALLEST)
        assert with_head.weights / MIB == pytest.approx(everything["model"], abs=SMALLEST)
    with allocator.loaded(tiny[0], weights=True, load_mtp=False, load_mode=0) as (_, reported):
        assert without.weights / MIB == pytest.approx(reported["model"], abs=SMALLEST)
    kept = memory.estimate(header, MemoryRequest(spec, cached_states=3))
    assert kept.cached_states == kept.total - without.total == 3 * without.recurrent_states
    assert without.mtp_kv_cache == without.mtp_compute == without.mtp_outputs == 0
    assert with_head.total > without.total


def test_rows_of_the_mtp_head_are_those_that_are_allocated(tiny: tuple[Path, Path]) -> None:
    header, spec = read_header(tiny[0]), ContextSpec(1 << 14, 1 << 14, n_seq=4)
    found = memory.estimate(header, MemoryRequest(spec, mtp=True))
    with Model(tiny[0], ModelSpec(mtp=True)) as model, Context(model, spec, hidden=True) as main:
        tracemalloc.start()  # NumPy tells it what it allocates
        with head_context(model, main) as head:
            drafters = [Drafter(head, model.n_embd, seq) for seq in range(spec.n_seq)]
            ours, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            tokens = spec.n_batch * 25  # ids, positions, sequences and the like, of one call
            assert ours - tokens == pytest.approx(found.mtp_rows, rel=0.02)
            head._ext.llama_set_embeddings_nextn(head.pointer, False, False)
            zeros = np.zeros((2, model.n_embd), np.float32)
            head.evaluate([3, 4], 0, outputs=1, embd=zeros)  # touches what all calls use
            head.clear()
            ctypes.CDLL(None).malloc_trim(0)  # else what earlier tests freed is used again, and nothing is added
            before = resident()
            head._ext.llama_set_embeddings_nextn(head.pointer, True, False)
            drafters[0].sync([3, 4], 0, zeros)
            draft(drafters[:1], [5], [2], 1)
            logits = 4 * model.n_vocab * spec.n_seq
            assert resident() - before == pytest.approx(found.mtp_outputs - logits, rel=0.05)


def test_vision_encoder_needs_what_mtmd_allocates(tiny: tuple[Path, Path]) -> None:
    text, mmproj = tiny
    header = read_header(mmproj)
    with allocator.loaded(text, weights=True) as (model, _):
        side, weights, compute = allocator.vision_buffer(model, mmproj)
    request = MemoryRequest(ContextSpec(512), mmproj=header, image_pixels=(side * 16) ** 2)
    found = memory.estimate(read_header(text), request)
    assert found.vision_compute / MIB == pytest.approx(compute, rel=0.05)
    assert found.vision_weights / MIB == pytest.approx(weights, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["QWEN35_GGUF", "QWEN35_GGUF_2"])
def test_real_file_needs_what_llama_cpp_allocates(variable: str) -> None:
    if variable not in os.environ:
        pytest.skip(f"{variable} names no GGUF")
    path = Path(os.environ[variable])
    mmproj = next(iter(path.parent.glob("mmproj-*.gguf")), None)
    header = read_header(path)
    spec = ContextSpec(8192, n_rs_seq=3, n_outputs=4)
    before = resident()
    with allocator.loaded(path, weights=True) as (model, reported):
        loaded = resident()
        main, drafter = contexts(model, spec)
        found = memory.estimate(header, MemoryRequest(spec, mtp=True))
        ours, theirs = found.weights + 2 * found.repacked, reported["model"]  # copies have their own buffer
        assert ours / MIB == pytest.approx(theirs, rel=0.03)
        for part, part_ours, part_theirs in parts(found, main, drafter):
            assert part_ours / MIB == pytest.approx(part_theirs, rel=0.03), part
            ours, theirs = ours + part_ours, theirs + part_theirs
        ours, theirs = ours + found.compute + found.mtp_compute, theirs + main["compute"] + drafter["compute"]
        assert ours / MIB == pytest.approx(theirs, rel=0.05)
        vocabulary = memory.VOCABULARY_BYTES * memory.architecture_of(header).vocab_size
        assert loaded - before - found.repacked < 1.1 * vocabulary  # less where memory of before is used again
        if mmproj is not None:
            side, weights, compute = allocator.vision_buffer(model, mmproj)
            request = MemoryRequest(ContextSpec(512), mmproj=read_header(mmproj), image_pixels=(side * 16) ** 2)
            found = memory.estimate(header, request)
            assert found.vision_weights / MIB == pytest.approx(weights, rel=0.03)
            assert found.vision_compute / MIB == pytest.approx(compute, rel=0.05)


def resident() -> int:
    """Bytes of memory that are not pages of a file."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_ctx": 0}, "n_ctx 0"),
        ({"n_ctx": -4096}, "n_ctx -4,096"),
        ({"n_ctx": 1 << 40}, "n_ctx 1,099,511,627,776"),
        ({"n_ctx": 512, "n_batch": 0}, "n_batch 0"),
        ({"n_ctx": 512, "kv_type": "q3_k"}, "q3_k"),
        ({"n_ctx": 512, "n_seq": 0}, "0 sequences"),
        ({"n_ctx": 512, "n_seq": 300}, "300 sequences"),
        ({"n_ctx": 512, "n_rs_seq": -1}, "n_rs_seq -1"),
        ({"n_ctx": 512, "n_outputs": 0}, "n_outputs 0"),
    ],
)
def test_absurd_numbers(tiny: tuple[Path, Path], options: dict[str, Any], named: str) -> None:
    with pytest.raises(ContextError, match=re.escape(named)):
        memory.estimate(read_header(tiny[0]), MemoryRequest(ContextSpec(**options)))


def test_files_of_others(tiny: tuple[Path, Path]) -> None:
    text, mmproj = (read_header(path) for path in tiny)
    with pytest.raises(ModelError, match="clip"):
        memory.estimate(mmproj, MemoryRequest(ContextSpec(512)))
    with pytest.raises(ModelError, match="mmproj"):
        memory.estimate(text, MemoryRequest(ContextSpec(512), mmproj=text))
    for key, value in (
        ("block_count", 1),
        ("attention.head_count", "8"),
        ("ssm.state_size", 0),
        ("embedding_length", -1),
    ):
        broken = with_values(text, {f"qwen35.{key}": value})
        with pytest.raises(ModelError):
            memory.estimate(broken, MemoryRequest(ContextSpec(512)))
