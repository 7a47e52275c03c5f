"""Estimates from a header are what llama.cpp allocates, and what is said to fit does."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import allocator, llama
from oracles.headers import with_values
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import ContextError, MemoryLimitError, ModelError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.planning import allocation, available_memory, memory

MIB = 1 << 20
KV = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"n_ctx": 4096},
    "long": {"n_ctx": 131072},
    "drafting": {"n_ctx": 8192, "rollback": 3, "outputs": 4},
    "small batch": {"n_ctx": 5000, "n_batch": 64, "kv_type": "q8_0"},
    "batch beyond the context": {"n_ctx": 700, "n_batch": 2048, "kv_type": "q4_1"},
    "hardly any context": {"n_ctx": 100, "sequences": 3, "outputs": 3},
    "four sequences": {"n_ctx": 16384, "sequences": 4, "kv_type": "bf16"},
    "F32 cache, many logits": {"n_ctx": 20480, "n_batch": 256, "kv_type": "f32", "outputs": 100, "sequences": 2},
}
SMALLEST = 0.0051  # llama.cpp gives two decimals


@pytest.fixture(scope="module")
def tiny(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tuple(hf_to_gguf.convert(checkpoint(tied=False, seed=3), "Q8_0", tmp_path_factory.mktemp("tiny")))


def contexts(model: Any, case: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """What llama.cpp says of the trunk's context and of the MTP head's."""
    given = {"n_batch": 512, "kv_type": "f16", "sequences": 1, "rollback": 0, "outputs": 1} | case
    options: dict[str, Any] = {"n_ctx": given["n_ctx"], "n_batch": given["n_batch"], "n_ubatch": given["n_batch"]}
    options |= {"type_k": KV[given["kv_type"]], "type_v": KV[given["kv_type"]]}
    options |= {"n_seq_max": given["sequences"], "kv_unified": given["sequences"] > 1}
    draft = options | {"n_outputs_max": given["sequences"]}
    options |= {"n_rs_seq": given["rollback"], "n_outputs_max": max(given["outputs"], given["sequences"])}
    with allocator.made(model, **options) as (trunk, said), allocator.made(model, trunk=trunk, **draft) as (_, drafter):
        return said, drafter


def pairs(
    found: memory.Estimate, trunk: dict[str, float], drafter: dict[str, float]
) -> Iterator[tuple[str, int, float]]:
    """Ours in bytes and llama.cpp's in MiB. The outputs are as large as the first call makes them, not at the start."""
    yield "kv_cache", found.kv_cache, trunk["KV"]
    yield "recurrent", found.recurrent, trunk["RS"]
    yield "compute", found.compute, trunk["compute"]
    yield "mtp_kv_cache", found.mtp_kv_cache, drafter["KV"]
    yield "mtp_compute", found.mtp_compute, drafter["compute"]


@pytest.mark.parametrize("name", allocator.SHAPES)
def test_real_shapes_need_what_llama_cpp_plans(real: Callable[[str], Path], name: str) -> None:
    path = real(name)
    header = read_header(path)
    with allocator.loaded(path, weights=False) as (model, _):
        for label, case in CASES.items():
            found = memory.estimate(header, mtp=True, **case)
            for part, ours, theirs in pairs(found, *contexts(model, case)):
                assert ours / MIB == pytest.approx(theirs, rel=1e-4, abs=SMALLEST), (label, part)


@pytest.mark.parametrize(
    ("name", "options"), [("4b", {"draft_rows": 100000}), ("35b-a3b", {"draft_rows": 5000, "merged": True})]
)
def test_variants_of_real_shapes(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = allocator.sparse_model(tmp_path / "variant.gguf", name, **options)
    header = read_header(path)
    plain = read_header(allocator.sparse_model(tmp_path / "plain.gguf", name))
    with allocator.loaded(path, weights=False) as (model, _):
        for label, case in CASES.items():
            found = memory.estimate(header, mtp=True, **case)
            for part, ours, theirs in pairs(found, *contexts(model, case)):
                assert ours / MIB == pytest.approx(theirs, rel=1e-4, abs=SMALLEST), (label, part)
    assert memory.model_shape(header) != memory.model_shape(plain)  # it is a variant


@pytest.mark.parametrize("options", [{}, {"moe": True, "seed": 6}, {"value_heads_per_key": 3, "seed": 4}], ids=str)
def test_tiny_models_need_what_llama_cpp_allocates(
    checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    path = hf_to_gguf.convert(checkpoint(**options), "Q4_K_M", tmp_path, vision=False)[0]
    header = read_header(path)
    with allocator.loaded(path, weights=True) as (model, said):
        for label, case in CASES.items():
            found = memory.estimate(header, mtp=True, **case)
            # each tensor begins at a multiple of 32, and copies have a buffer beside the mapped file
            assert (found.weights + 2 * found.repacked) / MIB == pytest.approx(said["model"], rel=0.001, abs=SMALLEST)
            trunk, drafter = contexts(model, case)
            for part, ours, theirs in pairs(found, trunk, drafter):
                assert ours / MIB == pytest.approx(theirs, rel=0.001, abs=SMALLEST), (label, part)


def test_outputs_and_head_count_only_where_they_are_used(tiny: tuple[Path, Path]) -> None:
    header = read_header(tiny[0])
    with_head, without = (memory.estimate(header, n_ctx=512, mtp=mtp) for mtp in (True, False))
    with allocator.loaded(tiny[0], weights=True) as (model, everything), allocator.made(model) as (_, said):
        assert without.outputs / MIB == pytest.approx(said["output"], abs=SMALLEST)
        assert with_head.weights / MIB == pytest.approx(everything["model"], abs=SMALLEST)
    with allocator.loaded(tiny[0], weights=True, load_mtp=False, load_mode=0) as (_, said):
        assert without.weights / MIB == pytest.approx(said["model"], abs=SMALLEST)
    kept = memory.estimate(header, n_ctx=512, checkpoints=3)
    assert kept.checkpoints == kept.total - without.total == 3 * without.recurrent
    assert without.mtp_kv_cache == without.mtp_compute == without.mtp_outputs == 0
    assert with_head.total > without.total


def test_vision_tower_needs_what_mtmd_allocates(tiny: tuple[Path, Path]) -> None:
    text, mmproj = tiny
    header = read_header(mmproj)
    with allocator.loaded(text, weights=True) as (model, _):
        side, weights, compute = allocator.vision_buffer(model, mmproj)
    pixels = (side * 16) ** 2
    found = memory.estimate(read_header(text), n_ctx=512, mmproj=header, image_pixels=pixels)
    assert found.vision_compute / MIB == pytest.approx(compute, rel=1e-3)
    assert found.vision_weights / MIB == pytest.approx(weights, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["QWEN35_GGUF", "QWEN35_GGUF_2"])
def test_real_file_needs_what_llama_cpp_allocates(variable: str) -> None:
    if variable not in os.environ:
        pytest.skip(f"{variable} names no GGUF")
    path = Path(os.environ[variable])
    mmproj = next(iter(path.parent.glob("mmproj-*.gguf")), None)
    header = read_header(path)
    case = {"n_ctx": 8192, "rollback": 3, "outputs": 4}
    before = resident()
    with allocator.loaded(path, weights=True) as (model, said):
        loaded = resident()
        trunk, drafter = contexts(model, case)
        found = memory.estimate(header, mtp=True, **case)
        ours, theirs = found.weights + 2 * found.repacked, said["model"]  # copies have their own buffer
        assert ours / MIB == pytest.approx(theirs, rel=0.03)
        for part, part_ours, part_theirs in pairs(found, trunk, drafter):
            assert part_ours / MIB == pytest.approx(part_theirs, rel=0.03), part
            ours, theirs = ours + part_ours, theirs + part_theirs
        assert ours / MIB == pytest.approx(theirs, rel=0.05)
        vocabulary = memory.VOCABULARY_BYTES * memory.model_shape(header).vocabulary
        assert loaded - before - found.repacked < 1.1 * vocabulary  # less where memory of before is used again
        if mmproj is not None:
            side, weights, compute = allocator.vision_buffer(model, mmproj)
            found = memory.estimate(header, n_ctx=512, mmproj=read_header(mmproj), image_pixels=(side * 16) ** 2)
            assert found.vision_weights / MIB == pytest.approx(weights, rel=0.03)
            assert found.vision_compute / MIB == pytest.approx(compute, rel=0.03)


def resident() -> int:
    """Bytes of memory that are not pages of a file."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


# ---- placement ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_placement_is_between_what_is_alive_and_the_sum(data: st.DataObject) -> None:
    nodes = [allocation.Node((data.draw(st.integers(1, 50)),), size=32)]
    graph = allocation.Graph()
    for _ in range(data.draw(st.integers(1, 25))):
        parents = tuple(data.draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3, unique=True)))
        kind = data.draw(st.sampled_from(["new", "same", "view"]))
        if kind == "new":
            node = allocation.new(data.draw(st.integers(1, 50)), of=parents, size=32)
        elif kind == "same":
            node = allocation.same(*parents)
            node.n_bytes = parents[0].n_bytes if parents[0].root is None else 32
        else:
            node = allocation.view(parents[0], 1)
        nodes.append(graph.add(node))
    own = [node for node in graph.nodes + graph.inputs if node.root is None]
    last = {node: i for i, user in enumerate(graph.nodes) for node in (p.root or p for p in user.parents)}
    alive = [
        sum(p.n_bytes for p in {q.root or q for q in node.parents})
        + (0 if node.root or node.may_replace else node.n_bytes)
        for node in graph.nodes
    ]
    assert max(alive) <= allocation.buffer_size(graph) <= sum(node.n_bytes for node in own)
    assert last  # every graph has users


# ---- what fits ---------------------------------------------------------------------------------------------------


def test_largest_context_is_the_largest(real: Callable[[str], Path]) -> None:
    header = read_header(real("9b"))
    for budget, options in ((7 << 30, {}), (12 << 30, {"mtp": True, "rollback": 2}), (9 << 30, {"kv_type": "q8_0"})):
        found = memory.largest_context(header, budget, **options)
        assert found % 256 == 0
        assert memory.estimate(header, n_ctx=found, **options).total <= budget
        assert memory.estimate(header, n_ctx=found + 256, **options).total > budget
    for most in range(6):
        assert memory.most_steps(lambda steps, most=most: steps <= most, 4) == min(most, 4)
    assert memory.largest_context(header, 1 << 30) == 0
    assert memory.largest_context(header, -5) == 0
    assert memory.largest_context(header, 1 << 50) == memory.LONGEST_CONTEXT


def refusal(header: GgufHeader, budget: int, **options: Any) -> str:
    with pytest.raises(MemoryLimitError) as caught:
        memory.check_fits(header, budget=budget, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_refusal_names_what_fits(real: Callable[[str], Path]) -> None:
    header = read_header(real("9b"))
    message = refusal(header, 8_000_000_000, n_ctx=262144)
    assert f"needs {memory.estimate(header, n_ctx=262144).total / 1e9:.1f} GB" in message
    assert "8.0 GB" in message
    shorter, quantized = (
        int(found.replace(",", "")) for found in re.findall(r"n_ctx ([\d,]+)(?: fits| with)", message)
    )
    assert memory.check_fits(header, n_ctx=shorter, budget=8_000_000_000).total <= 8_000_000_000
    memory.check_fits(header, n_ctx=quantized, budget=8_000_000_000, kv_type="q8_0")
    assert quantized > shorter > 0
    refusal(header, 8_000_000_000, n_ctx=shorter + 256)

    message = refusal(header, 5_000_000_000, n_ctx=8192)
    name, cells = re.search(r"smaller quant fits: (\w+) .* with n_ctx ([\d,]+)", message).groups()
    memory.check_fits(memory.requantized(header, name), n_ctx=int(cells.replace(",", "")), budget=5_000_000_000)
    larger = list(itertools.takewhile(lambda quant: quant != name, memory.SMALLER_QUANTS))
    for quant in larger:  # the best that fits was named
        assert memory.largest_context(memory.requantized(header, quant), 5_000_000_000) < 4096
    assert "smaller model" in refusal(header, 1_000_000_000, n_ctx=8192)
    assert "smaller model" in refusal(header, 0, n_ctx=8192)


def test_what_the_memory_takes_is_left_alone(tiny: tuple[Path, Path]) -> None:
    header = read_header(tiny[0])
    assert memory.check_fits(header, n_ctx=512) == memory.estimate(header, n_ctx=512)


def test_requantized_headers_are_what_conversion_makes(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    for options in ({"tied": False, "seed": 3}, {"moe": True, "seed": 6}):
        source = checkpoint(**options)
        made = {
            quant: read_header(hf_to_gguf.convert(source, quant, tmp_path / quant, vision=False, force=True)[0])
            for quant in ("Q8_0", "Q4_K_M", "Q2_K")
        }
        for first, second in itertools.permutations(made, 2):
            ours = {tensor.name: tensor.type for tensor in memory.requantized(made[first], second).tensors}
            assert ours == {tensor.name: tensor.type for tensor in made[second].tensors}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_ctx": 0}, "n_ctx 0"),
        ({"n_ctx": -4096}, "n_ctx -4,096"),
        ({"n_ctx": 1 << 40}, "n_ctx 1,099,511,627,776"),
        ({"n_ctx": 512, "n_batch": 0}, "n_batch 0"),
        ({"n_ctx": 512, "kv_type": "q3_k"}, "q3_k"),
        ({"n_ctx": 512, "sequences": 0}, "0 sequences"),
        ({"n_ctx": 512, "sequences": 300}, "300 sequences"),
        ({"n_ctx": 512, "rollback": -1}, "rollback -1"),
        ({"n_ctx": 512, "outputs": 0}, "outputs 0"),
    ],
)
def test_absurd_numbers(tiny: tuple[Path, Path], options: dict[str, Any], named: str) -> None:
    with pytest.raises(ContextError, match=re.escape(named)):
        memory.estimate(read_header(tiny[0]), **options)


def test_files_of_others(tiny: tuple[Path, Path]) -> None:
    text, mmproj = (read_header(path) for path in tiny)
    with pytest.raises(ModelError, match="clip"):
        memory.estimate(mmproj, n_ctx=512)
    with pytest.raises(ModelError, match="mmproj"):
        memory.estimate(text, n_ctx=512, mmproj=text)
    for key, value in (
        ("block_count", 1),
        ("attention.head_count", "8"),
        ("ssm.state_size", 0),
        ("embedding_length", -1),
    ):
        broken = with_values(text, {f"qwen35.{key}": value})
        with pytest.raises(ModelError):
            memory.estimate(broken, n_ctx=512)


# ---- the memory there is -----------------------------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_available_memory(tmp_path: Path) -> None:
    free = {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:   2048 kB\n"}
    assert available_memory.available_bytes(write(tmp_path / "plain", free)) == 2 << 20
    second = free | {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": "7\n",
        "sys/fs/cgroup/a/memory.max": "1000000\n",
        "sys/fs/cgroup/a/memory.current": "900000\n",
        "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 50000\n",
    }
    assert available_memory.available_bytes(write(tmp_path / "v2", second)) == 150_000
    full = second | {"sys/fs/cgroup/a/memory.current": "2000000\n"}
    assert available_memory.available_bytes(write(tmp_path / "full", full)) == 0
    first = free | {
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/1\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
        "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "500000\n",
        "sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes": "300000\n",
        "sys/fs/cgroup/memory/docker/1/memory.stat": "total_inactive_file 1000\n",
    }
    assert available_memory.available_bytes(write(tmp_path / "v1", first)) == 201_000
    assert available_memory.available_bytes(tmp_path / "nothing") > 1 << 20
    assert (1 << 20) < available_memory.available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_vm_stat_of_macos() -> None:
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:        100.\nPages active:    900.\n"
        "Pages inactive:   50.\nPages speculative:  7.\nPages wired down:   1.\nPages purgeable:   3.\n"
    )
    assert available_memory._vm_stat(text) == 160 * 16384
    assert available_memory._vm_stat("no such thing") == 0


# ---- YaRN --------------------------------------------------------------------------------------------------------


def test_yarn_gives_the_logits_of_transformers(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(seed=1, mtp=False)
    path = hf_to_gguf.convert(source, "F32", tmp_path, vision=False)[0]
    header = read_header(path)
    native = memory.native_context(header)
    options = memory.rope_scaling(header, 4 * native)
    config = transformers.AutoConfig.from_pretrained(source)
    text = config.get_text_config()
    text.rope_parameters |= {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": native}
    model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(
        source, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = np.random.default_rng(0).integers(0, 2033, 200).tolist()
    with torch.no_grad():
        reference = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
    with llama.loaded(path) as loaded:
        vocabulary = reference.shape[1]
        with llama.context(loaded, 4 * native, **options) as ctx:
            found = llama.decode(ctx, tokens, 0, vocabulary)
        with llama.context(loaded, 512) as ctx:
            plain = llama.decode(ctx, tokens, 0, vocabulary)
    assert llama.mean_kl(reference, found) < 1e-7
    assert llama.mean_kl(reference, plain) > 100 * llama.mean_kl(reference, found)  # it makes a difference


def test_yarn_only_beyond_the_native_context(real: Callable[[str], Path]) -> None:
    header = read_header(real("9b"))
    for n_ctx in (1, 4096, 262144):
        assert memory.rope_scaling(header, n_ctx) == {}
        assert memory.rope_note(header, n_ctx) is None
    assert memory.rope_scaling(header, 262145)["rope_freq_scale"] < 1
    assert memory.rope_scaling(header, 1 << 20) == {
        "rope_scaling_type": 2,
        "rope_freq_scale": 0.25,
        "yarn_orig_ctx": 262144,
    }
    note = memory.rope_note(header, 1 << 20)
    assert "4 times the native 262,144" in note
    assert "34.4 GB instead of at most 8.6 GB" in note
    for n_ctx in (0, -1, (1 << 20) + 1):
        with pytest.raises(ContextError, match="1,048,576"):
            memory.rope_scaling(header, n_ctx)
    scaled = with_values(
        header,
        {"qwen35.context_length": 1 << 20, "qwen35.rope.scaling.original_context_length": 262144},
    )
    assert memory.rope_scaling(scaled, 1 << 20) == {}
