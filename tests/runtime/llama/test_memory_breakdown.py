"""The buffers that llama.cpp plans without weights are those that it allocates with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from oracles import allocator
from oracles.rpc import free_port, rpc_server
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import ModelError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import context_fields
from qwen35_gguf.runtime.llama.devices import CPU, Device, Offload
from qwen35_gguf.runtime.llama.memory_breakdown import MeasuredBuffers, PlannedModel
from qwen35_gguf.runtime.llama.model import offload_fields
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.memory import architecture_of

MIB = 1 << 20
SPEC = ContextSpec(4096, 128, n_rs_seq=2, n_outputs=3, kv_type="q8_0")


@pytest.fixture(scope="module")
def devices() -> Iterator[list[Device]]:
    port = free_port()
    with rpc_server(port):
        yield offload.find(endpoints=[f"127.0.0.1:{port}"])


def measured(path: Path, specs: list[ContextSpec], chosen: Offload, *, mtp: bool = True) -> list[MeasuredBuffers]:
    header = read_header(path)
    size = architecture_of(header).vocab_size
    with PlannedModel(path, architecture=header.architecture, vocab_size=size, offload=chosen, mtp=mtp) as model:
        return [model.measure(spec) for spec in specs]


def allocated(path: Path, chosen: Offload, spec: ContextSpec) -> MeasuredBuffers:
    """What llama.cpp reports with weights and real buffers."""
    names = {device.endpoint: device.name for device in chosen.devices} | {"CPU": CPU}
    head = context_fields(replace(spec, n_rs_seq=0, n_outputs=1))
    fields, keep = offload_fields(chosen)
    with (
        allocator.loaded(path, weights=True, **fields) as (model, _),
        allocator.made(model, **context_fields(spec)) as (main, _),
    ):
        found = allocator.reported_by_device()["compute"]
        with allocator.made(model, main=main, **head):
            drafter = allocator.reported_by_device()["compute"]
    del keep
    both = ({names[name]: round(size * MIB) for name, size in sizes.items()} for sizes in (found, drafter))
    return MeasuredBuffers(*both)


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_planned_buffers_are_those_that_are_allocated(
    checkpoint: Callable[..., Path], tmp_path: Path, devices: list[Device], layers: int
) -> None:
    path = hf_to_gguf.convert(checkpoint(tied=False, seed=3), "Q8_0", tmp_path, vision=False)[0]
    chosen = Offload(tuple(devices), layers) if layers else Offload()
    (found,) = measured(path, [SPEC], chosen)
    assert found == allocated(path, chosen, SPEC)
    assert set(found.main) == ({CPU, devices[0].name} if layers else {CPU})


def test_several_contexts_and_no_mtp_head(real: Callable[[str], Path]) -> None:
    specs = [ContextSpec(n_ctx) for n_ctx in (4096, 16384)]
    short, long = measured(real("0.8b"), specs, Offload(), mtp=False)
    assert short.mtp == long.mtp == {}
    mask = 2 * 512 * (16384 - 4096)
    assert long.main[CPU] - short.main[CPU] == pytest.approx(mask, abs=2 * 5243)  # two decimals of MiB


def test_what_llama_cpp_refuses(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        PlannedModel(tmp_path / "none.gguf", architecture="qwen35", vocab_size=9, offload=Offload(), mtp=False)
