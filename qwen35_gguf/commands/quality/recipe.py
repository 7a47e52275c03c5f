"""Find the types that fit a size best."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import click

from qwen35_gguf.atomic_file import check_output, write_text
from qwen35_gguf.commands import output
from qwen35_gguf.commands.names.aliases import renamed_option
from qwen35_gguf.commands.parameter_types import SIZE
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.quant import presets
from qwen35_gguf.quant.search import costs as files
from qwen35_gguf.quant.search import solve
from qwen35_gguf.units import format_file_size

PATH = click.Path(path_type=Path)


@click.command("recipe", cls=Verb)
@click.argument("file", metavar="COSTS", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="The recipe to write, for `qwen35 convert --recipe`.")
@click.option("--target-size", type=SIZE, help="Size of the file: 5.0GB, 800MB, 4GiB.")
@click.option("--target-bpw", type=click.FloatRange(1, 32), help="Bits per weight, of the whole file.")
@click.option(
    "--max-kld",
    type=click.FloatRange(0, min_open=True),
    help="Upper limit of the divergence, in nats; the smallest such file.",
)
@renamed_option(
    "--by-kind",
    old=["--by-role"],
    is_flag=True,
    help="One type for all layers of a kind of tensor: a recipe for other model sizes as well.",
)
@click.option(
    "--base", default="", help="Preset for other tensors, and the type of the file; by default the nearest in size."
)
@click.option("--name", default="", help="Name of the recipe; by default its bits per weight.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(
    file: Path,
    out: Path,
    target_size: int | None,
    target_bpw: float | None,
    max_kld: float | None,
    by_kind: bool,
    base: str,
    name: str,
    force: bool,
) -> None:
    """Choose a type for each tensor from COSTS (made by `qwen35 sensitivity`), and write a recipe."""
    if sum(target is not None for target in (target_size, target_bpw, max_kld)) != 1:
        raise click.UsageError("give one of --target-size, --target-bpw and --max-kld")
    check_output(out, inputs=[file], force=force)
    if base:
        presets.find_preset(base)
    costs = files.read(file)
    if target_size is not None:
        found = solve.for_size(costs, target_size, by_kind=by_kind)
    elif target_bpw is not None:
        found = solve.for_bits(costs, target_bpw, by_kind=by_kind)
    else:
        found = solve.for_divergence(costs, max_kld or 0.0, by_kind=by_kind)
    base = presets.find_preset(base).name if base else nearest(found.bits)
    text = solve.as_recipe(costs, found, name or f"{found.bits:.2f}bpw", base)
    write_text(out, text)
    used = Counter(type_.name for type_ in found.types.values())
    output.echo(", ".join(f"{count} {type_}" for type_, count in used.most_common()))
    exact = "the optimum" if not found.gap else f"at most {found.gap:.1e} from the optimum"
    output.echo(
        f"{out}  {format_file_size(found.size)}, {found.bits:.2f} bits per weight, "
        f"expected divergence {found.expected:.2e} nats ({exact})"
    )
    advice = f"qwen35 convert CHECKPOINT --recipe {shlex.quote(str(out))}"
    advice += f" --imatrix {shlex.quote(costs.imatrix)}" if costs.imatrix else ""
    advice += f" --rounding {costs.rounding} --moments {shlex.quote(costs.moments)}" if costs.rounding else ""
    output.advise(f"Use it: {advice}")
    output.emit(
        {
            "file": str(out),
            "types": dict(used),
            "bytes": found.size,
            "bits_per_weight": found.bits,
            "expected_divergence": found.expected,
            "gap": found.gap,
            "base": base,
            "imatrix": costs.imatrix,
            "rounding": costs.rounding,
            "moments": costs.moments,
        }
    )


def nearest(bits: float) -> str:
    """Return the name of the K-quant preset whose size is nearest."""
    sizes = {"Q2_K": 2.96, "Q3_K_M": 3.9, "Q4_K_M": 4.85, "Q5_K_M": 5.7, "Q6_K": 6.57, "Q8_0": 8.5}
    return min(sizes, key=lambda quant: abs(sizes[quant] - bits))
