"""Show what a GGUF file needs and where it goes."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qwen35_gguf.commands import output
from qwen35_gguf.commands.first_contact import completion
from qwen35_gguf.commands.hub_argument import headers
from qwen35_gguf.commands.parameter_types import ENDPOINTS, MEMORY, tokens
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.errors import VisionError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import AUTO_KV_TYPE, KV_TYPES, ContextSpec, MemoryRequest
from qwen35_gguf.runtime.engine.drafts.draft_depth import MAX_DEPTH
from qwen35_gguf.runtime.engine.forest.live_sequence import CACHED_STATES
from qwen35_gguf.runtime.hub_models import HeaderFiles
from qwen35_gguf.runtime.llama.devices import Device
from qwen35_gguf.runtime.llama.rpc import connect
from qwen35_gguf.runtime.model_files import find_mmproj, read_model
from qwen35_gguf.runtime.mtp_files import find_head, with_head
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.planning.kv_cache_type import with_kv_type
from qwen35_gguf.runtime.planning.memory import architecture_of, has_mtp
from qwen35_gguf.runtime.planning.placement import largest_context, plan_placement
from qwen35_gguf.runtime.planning.plan import Machine, Plan, Usage, as_dict
from qwen35_gguf.runtime.planning.yarn import native_context, yarn_note
from qwen35_gguf.units import format_size

DEFAULT_CONTEXT = 16384
BAR = 48  # columns
COLOURS = {
    "embedding": "bright_black",
    "DeltaNet": "green",
    "attention": "cyan",
    "feed-forward": "blue",
    "experts": "bright_blue",
    "MTP": "magenta",
    "output": "yellow",
    "recurrent states": "bright_green",
    "KV cache": "bright_cyan",
    "compute": "red",
    "MTP compute": "bright_red",
    "MTP rows": "red3",
    "logits": "bright_yellow",
    "prefix cache": "bright_green",
    "vision": "bright_magenta",
    "vocabulary": "white",
    "reserve": "white",
}
LETTERS = {"DeltaNet": "D", "attention": "A", "MTP": "M", "output": "O", "feed-forward": "f", "experts": "e"}


@click.command("plan", cls=Verb)
@click.argument("file", metavar="MODEL", type=click.Path(path_type=Path), shell_complete=completion.models)
@click.option("--ctx", type=tokens(), help="Tokens of context; by default 16,384 or what is native.")
@click.option("--kv-type", default="f16", show_default=True, help=f"One of {', '.join(KV_TYPES)}, {AUTO_KV_TYPE}.")
@click.option("--device", "devices", multiple=True, help="A GPU of this machine, or cpu for none; may be repeated.")
@click.option("--rpc", type=ENDPOINTS, default="", help="RPC servers as well: host:port, separated by commas.")
@click.option("--ram", type=MEMORY, help="Plan for a machine with this much free RAM: 16GB, 8GiB, 512MB.")
@click.option("--vram", type=MEMORY, multiple=True, help="And with a GPU with this much free memory; may be repeated.")
@click.option("--parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Sequences in the context.")
@click.option("--batch", type=tokens(), default=512, show_default=True, help="Tokens of one call.")
@click.option("--no-mtp", is_flag=True, help="Without drafts, and the multi-token-prediction head.")
@click.option("--no-vision", is_flag=True, help="Without the mmproj-*.gguf beside MODEL.")
def command(
    file: Path,
    ctx: int | None,
    kv_type: str,
    devices: tuple[str, ...],
    rpc: tuple[str, ...],
    ram: int | None,
    vram: tuple[int, ...],
    parallel: int,
    batch: int,
    no_mtp: bool,
    no_vision: bool,
) -> None:
    """Show the memory that MODEL needs, where it goes, and the longest context that fits, from its header alone.

    Of USER/NAME:QUANT on the Hub the header is read, without a download; without QUANT the best that fits is planned.
    """
    machine = read_machine(ram, vram, devices, rpc)

    def request(model: GgufHeader, mmproj: GgufHeader | None, mtp: Path | None) -> MemoryRequest:
        drafting = not no_mtp and parallel == 1
        depth = MAX_DEPTH if drafting else 0
        n_ctx = min(DEFAULT_CONTEXT, native_context(model)) if ctx is None else ctx
        outputs = max(1 + depth, parallel)
        wanted = MemoryRequest(
            ContextSpec(n_ctx, batch, kv_type=kv_type, n_seq=parallel, n_rs_seq=depth, n_outputs=outputs),
            mtp=drafting and has_mtp(model),
            cached_states=CACHED_STATES if parallel == 1 else 0,
            mmproj=None if no_vision else mmproj,
        )
        wanted = with_kv_type(model, wanted, on_cpu=not machine.devices)
        return with_head(model, read_header(mtp) if mtp else None, wanted)

    def fits(files: HeaderFiles) -> None:
        header = read_model(files.model)
        plan_placement(header, machine, request(header, read_header(files.mmproj) if files.mmproj else None, files.mtp))

    with headers(file, fits) as remote:
        if remote is None:
            header = read_model(file)
            _show(header, machine, request(header, _mmproj(file, header), _mtp(header)), real=not (ram or vram))
        else:
            files, _ = remote
            header = read_model(files.model)
            mmproj = read_header(files.mmproj) if files.mmproj else None
            _show(header, machine, request(header, mmproj, files.mtp), real=not (ram or vram))


def _show(header: GgufHeader, machine: Machine, request: MemoryRequest, *, real: bool) -> None:
    """Plan and print; on a real machine the installed llama.cpp is asked for its compute buffers."""
    n_ctx = request.context.n_ctx
    with offload.measuring(header, request, machine.devices) as asked:
        measure = asked if real else None
        plan = plan_placement(header, machine, request, measure)
        longest = {"longest": largest_context(header, machine, request, measure=measure)}
    if machine.devices:
        longest["longest_on_gpus"] = largest_context(header, machine, request, on_devices=True)
    output.emit(as_dict(plan) | longest)
    console = output.console()
    if not console.is_terminal:
        console.width = 120
    draw(console, plan, longest, yarn_note(header, n_ctx, request.context.kv_type))


def read_machine(
    ram: int | None, vram: tuple[int, ...], devices: tuple[str, ...], rpc: tuple[str, ...] = ()
) -> Machine:
    """Describe the machine: this one, or one with the given sizes, with RPC servers.

    Raises:
        DeviceError: a device is not available.
        RpcServerError: an RPC server does not answer.

    """
    free = available_bytes() if ram is None else ram
    gpus = [Device(f"CUDA{i}", size) for i, size in enumerate(vram)]
    if devices or (ram is None and not vram):
        gpus += offload.find(devices, rpc)
    elif rpc:
        gpus += connect(rpc)
    return Machine(free, tuple(gpus))


def _mtp(header: GgufHeader) -> Path | None:
    return None if has_mtp(header) else find_head(header)


def _mmproj(file: Path, header: GgufHeader) -> GgufHeader | None:
    try:
        return read_header(find_mmproj(file, architecture_of(header).hidden_size))
    except VisionError:
        return None


# ---- the chart ---------------------------------------------------------------------------------------------------


def draw(console: Console, plan: Plan, longest: dict[str, int], note: str | None) -> None:
    """Print bars of the devices, the layers with their devices, and the options of llama.cpp."""
    console.print(Text(f"{plan.model}, context {plan.n_ctx:,}, KV cache {plan.kv_type}", style="bold"))
    for usage in plan.usage:
        if usage.parts:
            console.print(bar(usage))
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for usage in plan.usage:
        table.add_column(usage.device, justify="right")
    for part, colour in COLOURS.items():
        if any(part in usage.parts for usage in plan.usage):
            sizes = [format_size(usage.parts[part]) if part in usage.parts else "" for usage in plan.usage]
            table.add_row(Text("█ ", style=colour) + Text(part, style="default"), *sizes)
    table.add_row("total", *(format_size(usage.used) for usage in plan.usage), style="bold")
    table.add_row("bytes read per token", *(format_size(usage.bytes_per_token) for usage in plan.usage))
    console.print(table)
    console.print(layers(plan))
    mapped = format_size(plan.usage[0].weights)
    console.print(f"Of the RAM {mapped} are weights, with mmap pages of the file", highlight=False)
    console.print(f"Longest context that fits: {longest['longest']:,}", highlight=False)
    if "longest_on_gpus" in longest:
        on_gpus = f"{longest['longest_on_gpus']:,}" if longest["longest_on_gpus"] else "none"
        console.print(f"Longest with every layer on a GPU: {on_gpus}", highlight=False)
    if note:
        console.print(f"note: {note}", highlight=False)
    for line in arguments(plan):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def bar(usage: Usage) -> Text:
    """Draw how full a device is; a part gets at least one column if it takes half of one."""
    text = Text(f"{usage.device:<8}")
    scale = BAR / max(usage.capacity, usage.used, 1)
    done, columns = 0, 0
    for part, colour in COLOURS.items():
        done += usage.parts.get(part, 0)
        width = round(done * scale) - columns
        text.append("█" * width, style=colour)
        columns += width
    text.append("░" * (BAR - columns), style="bright_black")
    return text.append(f"  {format_size(usage.used)} of {format_size(usage.capacity)}")


def layers(plan: Plan) -> Text:
    """Draw a row for each device, with a letter for each part that it stores, in the order of computation."""
    text = Text("layers: A attention, D DeltaNet, f feed-forward, e experts, M MTP, O output\n", style="bright_black")
    for usage in plan.usage:
        if not any(placement.device == usage.device for placement in plan.placements):
            continue
        text.append(f"{usage.device:<8}", style="default")
        for placement in plan.placements:
            if placement.device == usage.device:
                text.append(LETTERS[placement.kind], style=COLOURS[placement.kind])
            else:
                text.append("·", style="bright_black")
        text.append("\n")
    text.rstrip()
    return text


def arguments(plan: Plan) -> list[str]:
    """Return the options of llama.cpp's own programs for a plan."""
    if plan.n_gpu_layers == 0:
        return []
    options = [f"--n-gpu-layers {plan.n_gpu_layers}"]
    if sum(count > 0 for count in plan.tensor_split) > 1 or len(plan.tensor_split) > 1:
        options.append(f"--tensor-split {','.join(str(count) for count in plan.tensor_split)}")
    options += [f"--override-tensor '{pattern}={device}'" for pattern, device in plan.overrides]
    return ["llama.cpp: " + " ".join(options)]
