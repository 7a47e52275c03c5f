"""Plans add up, fit, read as little as any other way, and name tensors as llama.cpp understands it."""

from __future__ import annotations

import ctypes
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import allocator
from qwen35_gguf.commands.run.plan import command
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.doctor.engine import find_engine
from qwen35_gguf.errors import DeviceError, MemoryLimitError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import ContextSpec, MemoryRequest
from qwen35_gguf.runtime.llama.devices import Device, choose_devices, find_devices
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.planning import memory
from qwen35_gguf.runtime.planning.device_reserve import DRIVER_CONTEXT, WORK
from qwen35_gguf.runtime.planning.fitting import requantized
from qwen35_gguf.runtime.planning.placement import largest_context, place, plan_placement
from qwen35_gguf.runtime.planning.plan import CPU, Machine, Plan

GB = 10**9


def drafting(n_ctx: int = 8192, n_batch: int = 512, kv_type: str = "f16") -> MemoryRequest:
    return MemoryRequest(ContextSpec(n_ctx, n_batch, kv_type=kv_type, n_rs_seq=4, n_outputs=5), mtp=True)


def plain(n_ctx: int = 8192, kv_type: str = "f16") -> MemoryRequest:
    return MemoryRequest(ContextSpec(n_ctx, kv_type=kv_type))


CACHES = ("KV cache", "recurrent states")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shapes")
    return {name: allocator.sparse_model(folder / f"{name}.gguf", name) for name in ("0.8b", "9b", "27b", "35b-a3b")}


@pytest.fixture(scope="module")
def headers(files: dict[str, Path]) -> dict[str, GgufHeader]:
    return {name: read_header(path) for name, path in files.items()}


def machine(ram: float, *vram: float) -> Machine:
    return Machine(int(ram * GB), tuple(Device(f"CUDA{i}", int(size * GB)) for i, size in enumerate(vram)))


MACHINES = {
    "one GPU for all": ("9b", machine(16, 12), drafting(8192)),
    "most layers": ("9b", machine(16, 6), drafting(16384)),
    "little room, long context": ("9b", machine(16, 4), drafting(131072)),
    "tied": ("0.8b", machine(4, 1.2), drafting(4096)),
    "two GPUs": ("27b", machine(32, 8, 12), drafting(8192, kv_type="q8_0")),
    "some layers": ("27b", machine(32, 8), drafting(8192)),
    "experts": ("35b-a3b", machine(32, 8), drafting(8192)),
    "experts on two": ("35b-a3b", machine(32, 6, 6), drafting(32768)),
    "no GPU": ("35b-a3b", machine(32), drafting(8192)),
    "sequences": ("9b", machine(16, 5), MemoryRequest(ContextSpec(8192, n_seq=4, n_outputs=4))),
}


def devices_of_tensors(header: GgufHeader, plan: Plan) -> dict[str, str]:
    """Where llama.cpp puts tensors for a plan: its rules, written down a second time (load_tensors)."""
    blocks = header.require_hparam("block_count")
    start = blocks + 1 - plan.n_gpu_layers

    def of_layer(layer: int) -> str:
        place, gpus = layer - start, [usage.device for usage in plan.usage[1:]]
        for gpu, count in zip(gpus, plan.tensor_split, strict=True):
            if 0 <= place < count:
                return gpu
            place -= count
        return CPU

    found = {}
    for tensor in header.tensors:
        layer = re.match(r"blk\.(\d+)\.", tensor.name)
        device = CPU if tensor.name == "token_embd.weight" else of_layer(int(layer[1]) if layer else blocks)
        for pattern, override in plan.overrides:
            if re.search(pattern, tensor.name):
                device = override
                break
        found[tensor.name] = device
    if not any(tensor.name == "output.weight" for tensor in header.tensors) and of_layer(blocks) != CPU:
        found["output.weight"] = of_layer(blocks)  # a copy of the embedding
    return found


@pytest.mark.parametrize("label", MACHINES)
def test_plans_add_up_and_fit(headers: dict[str, GgufHeader], label: str) -> None:
    name, there, request = MACHINES[label]
    header = headers[name]
    plan = plan_placement(header, there, request)
    sizes = {tensor.name: tensor.nbytes for tensor in header.tensors}
    sizes.setdefault("output.weight", sizes["token_embd.weight"])
    layers = memory.main_layers(header)
    expected: Counter[str] = Counter()
    for tensor, device in devices_of_tensors(header, plan).items():
        if request.mtp or not tensor.startswith(f"blk.{layers}."):
            expected[device] += sizes[tensor]
    for usage in plan.usage:
        assert usage.weights == expected[usage.device], usage.device
        assert usage.used <= usage.capacity
    alone = memory.estimate(header, request)
    caches = sum(usage.parts.get(part, 0) for usage in plan.usage for part in CACHES)
    assert caches == alone.kv_cache + alone.recurrent_states + alone.mtp_kv_cache
    if not there.devices:
        assert plan.usage[0].used == alone.total
        assert plan.crossings == plan.n_gpu_layers == 0
    assert sum(plan.tensor_split) == plan.n_gpu_layers


class Override(ctypes.Structure):
    """llama_model_tensor_buft_override, which the binding leaves out."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


@pytest.mark.parametrize("label", ["little room, long context", "some layers", "experts"])
def test_llama_cpp_moves_the_tensors_that_are_meant(files: dict[str, Path], label: str) -> None:
    name, there, request = MACHINES[label]
    header = read_header(files[name])
    plan = plan_placement(header, there, request)
    assert plan.overrides
    library = ctypes.CDLL(str(next((installed_runtime().folder / "lib").glob("*ggml-base*"))))
    library.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    cpu = library.ggml_backend_cpu_buffer_type()  # the only one here; which it is does not matter to the pattern
    table = (Override * (len(plan.overrides) + 1))()  # ends with one of nulls
    for row, (pattern, _) in zip(table, plan.overrides, strict=False):
        row.pattern, row.buft = pattern.encode(), cpu
    address = ctypes.cast(table, ctypes.c_void_p).value
    with allocator.loaded(files[name], weights=False, tensor_buft_overrides=address):
        said = set(re.findall(r"tensor (\S+) \(.*buffer type overridden", allocator.log()))
    moved = {t.name for t in header.tensors if any(re.search(pattern, t.name) for pattern, _ in plan.overrides)}
    assert said == moved
    kinds = {p.kind for p in plan.placements if (p.device == CPU) != (p.layer < _start(plan, header))}
    assert moved == {
        tensor.name
        for tensor in header.tensors
        for placement in plan.placements
        if placement.kind in kinds
        and (placement.device == CPU) != (placement.layer < _start(plan, header))
        and re.match(rf"blk\.{placement.layer}\.ffn_(gate|up|down)(_exps)?\.weight", tensor.name)
        and tensor.name.endswith("_exps.weight") == (placement.kind == "experts")
    }


def _start(plan: Plan, header: GgufHeader) -> int:
    return int(header.require_hparam("block_count")) + 1 - plan.n_gpu_layers


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["0.8b", "9b", "35b-a3b"]),
    vram=st.floats(0.6, 30),
    more=st.floats(0, 10),
    n_ctx=st.sampled_from([512, 8192, 65536]),
)
def test_more_memory_never_hurts(
    headers: dict[str, GgufHeader], name: str, vram: float, more: float, n_ctx: int
) -> None:
    plan, short = place(headers[name], machine(64, vram), drafting(n_ctx))
    better, _ = place(headers[name], machine(64, vram + more), drafting(n_ctx))
    without, _ = place(headers[name], machine(64), drafting(n_ctx))
    assert short == 0
    assert better.cost <= plan.cost <= without.cost
    assert all(usage.used <= usage.capacity for usage in plan.usage)


def test_everything_goes_to_a_gpu_that_holds_it(headers: dict[str, GgufHeader]) -> None:
    for header in headers.values():
        plan = plan_placement(header, machine(64, 80), drafting())
        assert {placement.device for placement in plan.placements} == {"CUDA0"}
        assert plan.n_gpu_layers == header.require_hparam("block_count") + 1
        assert plan.overrides == ()
        assert set(plan.usage[0].parts) <= {"embedding", "compute", "MTP compute", "MTP rows", "logits", "vocabulary"}


def test_what_is_used_least_stays_on_the_cpu(headers: dict[str, GgufHeader]) -> None:
    plan = plan_placement(headers["35b-a3b"], machine(64, 8), drafting())
    assert {placement.kind for placement in plan.placements if placement.device == CPU} == {"experts"}
    plan = plan_placement(headers["9b"], machine(64, 2.5), drafting())
    assert plan.placements[-1].device == "CUDA0"  # the output is read for each draft as well
    assert "embedding" in plan.usage[0].parts


def test_bytes_read_per_token(headers: dict[str, GgufHeader]) -> None:
    """By hand: all weights but the embedding, half the cells, and each state read once and written once."""
    header = headers["9b"]
    (usage,) = plan_placement(header, machine(64), plain()).usage
    weights = sum(tensor.nbytes for tensor in header.tensors if not tensor.name.startswith(("token_embd", "blk.32.")))
    cache = 8 * 4096 * 2 * 4 * 256 * 2
    states = 24 * 4 * (32 * 128 * 128 + 3 * (2 * 16 + 32) * 128)
    assert usage.bytes_per_token == weights + cache + 2 * states


def test_largest_context(headers: dict[str, GgufHeader]) -> None:
    header, there = headers["9b"], machine(8, 6)
    for on_devices in (False, True):
        longest = largest_context(header, there, plain(), on_devices=on_devices)
        assert longest > 0
        plan, short = place(header, there, plain(longest))
        assert short == 0
        assert not on_devices or all(placement.device != CPU for placement in plan.placements)
        plan, short = place(header, there, plain(longest + 256))
        assert short > 0 or (on_devices and any(placement.device == CPU for placement in plan.placements))
    assert largest_context(header, machine(1), plain()) == 0


def test_memory_that_is_shared_is_counted_once(headers: dict[str, GgufHeader]) -> None:
    header = headers["9b"]
    own = Machine(5 * GB, (Device("GPU", 12 * GB),))
    shared = Machine(5 * GB, (Device("GPU", 12 * GB, shared=True),))
    plan_placement(header, own, plain())
    with pytest.raises(MemoryLimitError):
        plan_placement(header, shared, plain())


def test_refusal_names_what_is_short_and_what_fits(headers: dict[str, GgufHeader]) -> None:
    there = machine(7, 8)
    with pytest.raises(MemoryLimitError) as caught:
        plan_placement(headers["27b"], there, drafting())
    message = str(caught.value)
    _, short = place(headers["27b"], there, drafting())
    assert f"{short / 1e9:.1f} GB more than there is (7.0 GB of RAM + 8.0 GB of CUDA0)" in message
    quant = re.search(r"smaller quant fits: (\w+)", message)[1]
    plan_placement(requantized(headers["27b"], quant), there, drafting())

    with pytest.raises(MemoryLimitError) as caught:
        plan_placement(headers["9b"], machine(8, 4), plain(262144))
    (shorter,) = re.findall(r"n_ctx ([\d,]+) fits", str(caught.value))
    plan_placement(headers["9b"], machine(8, 4), plain(int(shorter.replace(",", ""))))
    (smaller,) = re.findall(r"n_ctx ([\d,]+) with KV type q8_0", str(caught.value))
    plan_placement(headers["9b"], machine(8, 4), plain(int(smaller.replace(",", "")), "q8_0"))
    with pytest.raises(DeviceError):
        plan_placement(headers["9b"], Machine(0), plain(512))


def test_a_gpu_too_small_for_anything_is_left_alone(headers: dict[str, GgufHeader]) -> None:
    plan = plan_placement(headers["9b"], Machine(16 * GB, (Device("CUDA0", DRIVER_CONTEXT + WORK),)), plain(4096))
    assert plan.n_gpu_layers == 0
    assert plan.usage[1].parts == {}


# ---- devices -----------------------------------------------------------------------------------------------------


def test_devices_are_those_that_doctor_finds() -> None:
    found = find_devices()
    assert [device.name for device in found] == [device["name"] for device in find_engine().devices]
    assert found[-1].kind == "cpu"
    assert found[-1].free > 0


def test_choosing_devices() -> None:
    found = [Device("CUDA0", 5), Device("Vulkan0", 3, "integrated gpu", shared=True), Device("CPU", 9, "cpu")]
    assert choose_devices(found, ()) == found[:1]
    assert choose_devices(found, ("cpu",)) == choose_devices(found, ("none",)) == []
    assert choose_devices(found, ("vulkan0", "CUDA0", "cuda0")) == [found[1], found[0]]
    with pytest.raises(DeviceError, match="take one of cpu, CUDA0, Vulkan0"):
        choose_devices(found, ("CUDA1",))


# ---- the command -------------------------------------------------------------------------------------------------


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_chart(files: dict[str, Path]) -> None:
    result = run(files["9b"], "--ram", "16GB", "--vram", "6GB")
    assert result.exit_code == 0, result.output
    for text in ("CUDA0", " GB of 6.0 GB", "Longest context that fits", "--n-gpu-layers ", "DfDfDfA", "MfO"):
        assert text in result.output
    rows = [line.split()[1] for line in result.output.splitlines() if re.match(r"(CPU|CUDA0) +[·A-Za-z]+$", line)]
    assert len(rows) == 2
    assert all((a == "·") != (b == "·") for a, b in zip(*rows, strict=True))  # every part is in one place
    result = run(files["9b"], "--ram", "64GB", "--ctx", 524288, "--no-mtp")
    assert "YaRN" in result.output
    assert "MTP " not in result.output.split("layers:")[0]


def test_json(files: dict[str, Path]) -> None:
    result = run(files["35b-a3b"], "--ram", "32GB", "--vram", "8GB", "--json", "--kv-type", "q8_0", "--parallel", 2)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["kv_type"] == "q8_0"
    assert found["usage"][1]["device"] == "CUDA0"
    assert found["longest"] > found["n_ctx"] == 16384
    assert found["overrides"][0][1] == "CPU"
    assert "MTP" not in found["usage"][1]["parts"]


def test_this_machine_and_its_mmproj(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    text, _ = hf_to_gguf.convert(checkpoint(tied=False, seed=3), "Q8_0", tmp_path)
    result = run(text, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "vision" in result.output
    assert "vision" not in run(text, "--device", "cpu", "--no-vision").output
    assert run(text).exit_code == 0
    assert "context 4,096" in result.output  # what is native


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--ram", "-3GB"], "-3GB"),
        (["--ram", "16GB", "--vram", "0"], "'0'"),
        (["--vram", "lots"], "lots"),
        (["--device", "CUDA7"], "CUDA7"),
        (["--ctx", "-5"], "'--ctx': '-5' is not a length"),
        (["--ctx", "0"], "'--ctx': 0 is not a length from 1"),
        (["--ctx", "2000000", "--ram", "900GB"], "1,048,576"),
        (["--parallel", "0"], "'--parallel': 0 is not in the range"),
        (["--batch", "-1"], "'--batch': '-1' is not a length"),
        (["--kv-type", "q9"], "q9"),
        (["--ram", "2GB"], "use a smaller model"),
    ],
)
def test_bad_input_is_one_line(files: dict[str, Path], arguments: list[str], named: str) -> None:
    result = run(files["9b"], *arguments)
    assert result.exit_code == 2, result.output
    (line,) = (line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try ")))
    assert named in line


def test_files_that_are_none(files: dict[str, Path], tmp_path: Path) -> None:
    with files["9b"].open("rb") as file:
        (tmp_path / "broken.gguf").write_bytes(file.read(3000))
    for path in (tmp_path / "missing.gguf", tmp_path / "broken.gguf"):
        result = run(path)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
