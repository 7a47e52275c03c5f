"""List the differences of two GGUF files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np

from qwen35_gguf.commands import output
from qwen35_gguf.commands.metadata_text import shorten
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.gguf_file.reader import tensor_data
from qwen35_gguf.gguf_file.shards import read_set
from qwen35_gguf.quant import kernels

SLAB = 1 << 22  # weights compared in one step
SPLIT = "split."  # metadata of shards


@click.command("diff", cls=Verb)
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--no-values", is_flag=True, help="Compare metadata, shapes and types only.")
def command(first: Path, second: Path, no_values: bool) -> None:
    """List the differences of FIRST and SECOND; exit code 0 if there is none, 1 otherwise."""
    a, b = read_set(first), read_set(second)
    differences = []
    for line in itertools.chain(metadata(a, b), tensors(a, b, values=not no_values)):
        output.echo(line)
        differences.append(line)
    output.echo(f"{len(differences)} differences" if differences else "no difference")
    output.emit({"first": str(first), "second": str(second), "differences": differences})
    if differences:
        raise SystemExit(1)


def metadata(a: Sequence[GgufHeader], b: Sequence[GgufHeader]) -> Iterator[str]:
    """Yield a line for each entry that differs; how the files are split does not count."""
    left, right = ({e.key: e for e in side[0].entries if not e.key.startswith(SPLIT)} for side in (a, b))
    for key in sorted({**left, **right}):
        if key not in right:
            yield f"- {key} = {shorten(left[key])}"
        elif key not in left:
            yield f"+ {key} = {shorten(right[key])}"
        elif (left[key].type, left[key].encoded) != (right[key].type, right[key].encoded):
            yield f"~ {key}: {shorten(left[key])} -> {shorten(right[key])}"


def tensors(a: Sequence[GgufHeader], b: Sequence[GgufHeader], *, values: bool) -> Iterator[str]:
    """Yield a line for each tensor that differs, with the relative error of its weights."""
    left, right = ({t.name: (shard, t) for shard in side for t in shard.tensors} for side in (a, b))
    for name in sorted({**left, **right}):
        if name not in right:
            yield f"- {name} {left[name][1].type.name}"
            continue
        if name not in left:
            yield f"+ {name} {right[name][1].type.name}"
            continue
        (_, one), (_, other) = left[name], right[name]
        if one.shape != other.shape:
            yield f"~ {name}: {list(one.shape)} -> {list(other.shape)}"
            continue
        types = "" if one.type == other.type else f" {one.type.name} -> {other.type.name}"
        if values:
            error = difference(left[name], right[name], same_type=not types)
            if types or error is not None:
                yield f"~ {name}:{types} relative error {error or 0:.2e}"
        elif types:
            yield f"~ {name}:{types}"


def difference(a: tuple[GgufHeader, TensorInfo], b: tuple[GgufHeader, TensorInfo], *, same_type: bool) -> float | None:
    """Return rms(difference) / rms(first) of two tensors' weights; None if all bits are equal."""
    x_rows, y_rows = tensor_data(*a), tensor_data(*b)
    if same_type and np.array_equal(x_rows, y_rows):
        return None
    columns = a[1].shape[-1]
    apart = energy = 0.0
    step = max(1, SLAB // columns)
    for start in range(0, len(x_rows), step):
        x = kernels.dequantize(x_rows[start : start + step], a[1].type, columns).astype(np.float64)
        y = kernels.dequantize(y_rows[start : start + step], b[1].type, columns).astype(np.float64)
        apart += float(np.vdot(x - y, x - y))
        energy += float(np.vdot(x, x))
    return float(np.sqrt(apart / energy)) if energy else float(apart > 0)
