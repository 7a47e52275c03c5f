"""Print a ladder of files from 2.5 to 6 bits per weight for the sizes of Qwen3.5, as a Markdown table.

.venv/bin/python docs/ladder.py [SIZE]...

Nothing is downloaded and nothing quantized: sizes follow from shapes (see model_sizes.py). The last column is the share
of the weights that can be rounded by second moments (`convert --rounding`), which does not change the size.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from model_sizes import SPECS, sparse_checkpoint

from qwen35_gguf.convert.plan_files import ConversionOptions, PlannedFile, plan_conversion
from qwen35_gguf.quant import imatrix
from qwen35_gguf.quant.rounding.round_rows import TYPES

# Presets and built-in recipes. Of a preset and the recipe in its place, the one that diverges less on the demo model.
RUNGS = (
    ("IQ2_XS", None), ("Q2_K", "deltanet"), ("Q3_K_M", "deltanet"), ("Q4_K_M", "deltanet"), ("Q5_K_M", None),
    ("Q6_K", None),
)  # fmt: skip


class Rung(NamedTuple):
    """Bits per weight, bytes of the file, and the share of its weights that can be rounded by moments."""

    bits: float
    size: int
    rounded: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=f"by default all: {', '.join(SPECS)}")
    options = parser.parse_args()
    titles = (f"`-q {quant}`" + (f" `--recipe {recipe}`" if recipe else "") for quant, recipe in RUNGS)
    print(f"| Model | {' | '.join(titles)} |")
    print(f"|---|{'--:|' * len(RUNGS)}")
    for name in options.sizes or SPECS:
        cells = (f"{rung.bits:.2f} bits, {gigabytes(rung.size)}, {100 * rung.rounded:.0f} %" for rung in rungs(name))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def rungs(name: str) -> Iterator[Rung]:
    """Plan the conversions of a model of that size."""
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = sparse_checkpoint(Path(scratch, f"Qwen3.5-{name}"), SPECS[name])
        options = ConversionOptions(checkpoint, "Q2_K", Path(scratch, "out"), vision=False)
        (text,) = plan_conversion(options).files
        importance = Path(scratch, "imatrix.gguf")
        # IQ2_XS has to have one.
        imatrix.write(imatrix.even((info.name, info.shape) for info in text.infos), importance)
        for quant, recipe in RUNGS:
            (text,) = plan_conversion(replace(options, quant=quant, recipe=recipe, imatrix=importance)).files
            yield rung_of(text)


def rung_of(file: PlannedFile) -> Rung:
    """Describe a planned file."""
    size = sum(info.nbytes for info in file.infos)
    weights = sum(info.n_weights for info in file.infos)
    rounded = sum(info.n_weights for info in file.infos if info.type in TYPES)
    return Rung(8 * size / weights, size, rounded / weights)


def gigabytes(size: int) -> str:
    """Write a size with three digits."""
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.1f} GB"


if __name__ == "__main__":
    main()
