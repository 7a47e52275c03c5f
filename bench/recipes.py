"""Size against KL divergence: llama.cpp's presets, the recipe `deltanet`, and recipes solved for the same sizes.

.venv/bin/python bench/recipes.py [--checkpoint examples/tiny-qwen3.5] [--out bench/results/recipes] [--kinds]

All files have the same importance matrix; the matrix and the costs are measured on calibration.txt of the checkpoint's
folder, divergence on evaluation.txt. `--kinds` prints the factors of runtime/sensitivity.py instead.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from qwen35_gguf.commands.quality.recipe import nearest
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.evaluation import collect_imatrix, kl_divergence, sensitivity
from qwen35_gguf.evaluation.quantized_weights import Quantizing
from qwen35_gguf.evaluation.size_plot import Point, draw
from qwen35_gguf.evaluation.texts.packaged import CALIBRATION, EVALUATION
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.quant import imatrix
from qwen35_gguf.quant.recipe_file import split_name
from qwen35_gguf.quant.search import costs as files
from qwen35_gguf.quant.search import solve
from qwen35_gguf.quant.search.costs import Costs

PRESETS = ("IQ2_M", "Q2_K_S", "IQ3_XXS", "Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K")
DELTANET = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
SIZES = (3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0)
TYPES = (*sensitivity.TYPES, files.Type.IQ2_S, files.Type.IQ3_XXS, files.Type.IQ3_S)
CHUNK = 256


def main() -> None:
    """Print a table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("examples/tiny-qwen3.5"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/recipes"))
    parser.add_argument("--chunks", type=int, default=6, help="of which costs are measured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", action="store_true")
    options = parser.parse_args()
    texts = [options.checkpoint / name for name in ("calibration.txt", "evaluation.txt")]
    calibration, evaluation = (text if text.exists() else None for text in texts)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reference = hf_to_gguf.convert(options.checkpoint, "F32", folder, vision=False)[0]
        matrix = folder / "imatrix.gguf"
        split = splitter(calibration, CALIBRATION)
        collect_imatrix.collect(reference, split, matrix, dataset="calibration", chunk=CHUNK, threads=options.threads)
        measured = measure(reference, matrix, split, options.chunks, options.threads)
        if options.kinds:
            print_kinds(measured)
            return
        base = folder / "reference"
        kl_divergence.save_reference(
            reference, splitter(evaluation, EVALUATION), base, chunk=CHUNK, threads=options.threads
        )

        def point(group: str, name: str, quant: str, recipe: str | Path | None = None) -> Point:
            file = hf_to_gguf.convert(
                options.checkpoint, quant, folder / "files", vision=False, imatrix=matrix, recipe=recipe, force=True
            )[0]
            found = kl_divergence.evaluate(file, base, threads=options.threads)
            size, mean = file.stat().st_size, found.mean
            bits = kl_divergence.bits_per_weight(file)
            print(
                f"{group:10} {name:8} {size / 1e6:7.3f} MB  {bits:5.2f} bits  KLD {mean.value:.5f} "
                f"({mean.low:.5f} to {mean.high:.5f})  same top {100 * found.same_top.value:.2f} %",
                flush=True,
            )
            return Point(name, bits, mean.value, mean.low, mean.high, group)

        points = [point("llama.cpp", quant, quant) for quant in PRESETS]
        points += [point("deltanet", "", quant, "deltanet") for quant in DELTANET]
        for bits in sorted({*SIZES, *(p.bits for p in points if p.group == "llama.cpp")}):
            try:
                found = solve.for_bits(measured, bits)
            except solve.RecipeError as error:
                print(error)
                continue
            recipe = folder / "recipe.yaml"
            recipe.write_text(solve.as_recipe(measured, found, "solved", nearest(found.bits)))
            points.append(point("solved", "", "Q4_K_M", recipe))
        compare(points)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        for path in draw(points, options.out, f"{options.checkpoint.name}, one importance matrix for all"):
            print(path)


def measure(reference: Path, matrix: Path, split: object, chunks: int, threads: int) -> Costs:
    """Measure all costs."""
    found = sensitivity.describe(reference, "")
    made = sensitivity.measure(
        reference, split, how=Quantizing(imatrix.read(matrix), None, threads), types=TYPES, chunk=CHUNK, chunks=chunks
    )  # type: ignore[arg-type]
    found.costs = list(made)
    return found


def compare(points: list[Point]) -> None:
    """Print each preset beside the largest solved recipe of at most its size."""
    for preset in (p for p in points if p.group == "llama.cpp"):
        ours = [p for p in points if p.group == "solved" and p.bits <= preset.bits + 1e-9]
        if ours:
            best = max(ours, key=lambda p: p.bits)
            print(
                f"{preset.name:8} {preset.bits:5.2f} bits: "
                f"{best.divergence / preset.divergence:.2f} times the divergence"
            )


def print_kinds(measured: Costs) -> None:
    """Print the divergence over the relative error, the median of each kind's tensors and types."""
    ratios: dict[str, list[float]] = {}
    for cost in measured.costs:
        if cost.error > 1e-4 and cost.divergence > 1e-7:
            ratios.setdefault(split_name(cost.tensor, measured.layers)[0], []).append(cost.divergence / cost.error)
    for kind, values in sorted(ratios.items()):
        print(f'    "{kind}": {statistics.median(values):.2g},')


if __name__ == "__main__":
    main()
