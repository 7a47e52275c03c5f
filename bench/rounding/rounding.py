"""Size against KL divergence of rounding by second moments, and what it costs.

.venv/bin/python bench/rounding/rounding.py [--checkpoint examples/tiny-qwen3.5] [--presets Q2_K,Q4_K_M]
    [--kinds block,full,full-alike,sequential] [--plot bench/results/rounding] [--shapes 0.8B]

All files have the same importance matrix; it and the moments are collected on calibration.txt of the checkpoint's
folder, divergence is measured on evaluation.txt, or on another `--text`. Each ratio to importance alone stands with its
standard error over chunks, which knows that both saw the same text. `sequential` collects moments after quantized
layers, for each preset; with `-alike` all tokens count alike, with `-fixed` all inputs are shrunk by 40 %. `--chunk
4096` measures at depth. With `--folder` the files are kept, for bench/rounding/texts.py.

`--held-out` leaves the evaluation text alone: it collects on three quarters of calibration.txt and measures on the
last, to choose `--stream-power` (see moment_sums.py). `--shapes` times the matrices of one layer of 0.8B or 9B.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.evaluation import collect_moments, kl_divergence, logits_file, sequential_moments, size_plot
from qwen35_gguf.evaluation.collect_imatrix import weight_names
from qwen35_gguf.evaluation.kl_divergence import bits_per_weight
from qwen35_gguf.evaluation.size_plot import Point
from qwen35_gguf.evaluation.sums import moment_sums
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.quant import imatrix
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.input_sums import HALVES, InputSums
from qwen35_gguf.quant.rounding.moments import Moments
from qwen35_gguf.quant.rounding.round_rows import prepare, round_rows

Floats = npt.NDArray[np.float64]

PRESETS = ("Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K")
CHUNK = 256
ALIKE, FIXED, SEQUENTIAL = "-alike", "-fixed", "sequential"
SLICE = 256  # rows that are timed; the others take as long
# Rows of the matrices that read each input of a gated delta net's layer, by columns.
SHAPES = {
    "0.8B": ((1024, 8192 + 2 * 3584), (2048, 1024), (3584, 1024)),
    "9B": ((4096, 12288 + 2 * 12288), (4096, 4096), (12288, 4096)),
}
LAYERS = {"0.8B": 24, "9B": 32}
WRITTEN = {2048: 1024, 3584: 1024, 4096: 4096, 12288: 4096}  # rows of what writes into the stream, by columns
TOKENS = 25_000  # of a text whose sums are timed


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("examples/tiny-qwen3.5"))
    parser.add_argument("--kinds", default="block")
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--chunk", type=int, default=CHUNK)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--stream-power", type=float, default=moment_sums.STREAM_POWER)
    parser.add_argument("--chunks", type=int, help="of the evaluation, at most")
    parser.add_argument("--calibration-chunks", type=int, help="at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--folder", type=Path, help="keeps the files, so that an interrupted run resumes")
    parser.add_argument("--shapes", choices=SHAPES)
    options = parser.parse_args()
    if options.shapes:
        time_shapes(options.shapes, options.kinds.split(","), options.threads)
        return
    moment_sums.STREAM_POWER = options.stream_power
    kinds = options.kinds.split(",")
    if options.plot:
        size_plot.check_plot(options.plot)
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        texts = options.checkpoint / "calibration.txt", options.text or options.checkpoint / "evaluation.txt"
        if options.held_out:
            texts = split_text(texts[0], Path(scratch))
        calibration, evaluation = (splitter(text, text.name) for text in texts)
        reference = hf_to_gguf.convert(options.checkpoint, "F32", folder, vision=False, force=True)[0]
        how: dict[str, Any] = {"kind": "full", "dataset": "c", "chunk": CHUNK, "threads": options.threads}
        how["chunks"] = options.calibration_chunks
        moments = {
            alike: files.read(out)
            if (out := folder / f"m{alike:d}.gguf").exists()
            else collect_moments.collect(reference, calibration, out, effects=not alike, keep_effects=True, **how)
            for alike in sorted({kind.endswith(ALIKE) for kind in kinds})
        }
        after = folder / "after.gguf"
        if False in moments:  # the effects of tokens are the same
            known, wanted = (collect_moments.effects_file(folder / name) for name in ("m0.gguf", "after.gguf.plain"))
            shutil.copy(known, wanted)
        some = next(iter(moments.values()))
        imatrix.write(some.importance(weight_names(read_header(reference))), folder / "i.gguf")
        fixed = without_shrinkings(some, folder / "fixed.gguf")
        base = folder / "base"
        kl_divergence.save_reference(
            reference, evaluation, base, chunk=options.chunk, chunks=options.chunks, threads=options.threads
        )

        def converted(quant: str, kind: str, **rounding: Any) -> Path:
            options_of_all = {"vision": False, "imatrix": folder / "i.gguf", "force": True}
            out = folder / "files" / f"{quant}-{kind}"
            return hf_to_gguf.convert(options.checkpoint, quant, out, **options_of_all, **rounding)[0]

        def divergence(file: Path) -> Floats:
            found = kl_divergence.compared(file, base, threads=options.threads).divergences
            return found.reshape(-1, logits_file.scored(options.chunk)).mean(axis=1)

        def moments_for(kind: str, plain: Path) -> Moments:
            if kind != SEQUENTIAL:
                return fixed if kind.endswith(FIXED) else moments[kind.endswith(ALIKE)]
            types = {tensor.name: tensor.type for tensor in read_header(plain).tensors}
            return sequential_moments.collect(reference, calibration, after, types, keep_plain=True, **how)

        for quant in options.presets.split(","):
            plain = converted(quant, "importance")
            alone, bits = divergence(plain), bits_per_weight(plain)
            points.append(Point(quant, bits, *[float(alone.mean())] * 3, "importance"))
            row = [f"| {quant} | {bits:.2f} | {alone.mean():.5f}"]
            for kind in kinds:
                found = moments_for(kind, plain)
                file = converted(quant, kind, rounding=kind.partition("-")[0], moments=found.path)
                chunks = divergence(file)
                ratio, error = paired_ratio(chunks, alone)
                value = float(chunks.mean())
                spread = error * float(alone.mean())
                points.append(Point(quant, bits, value, value - spread, value + spread, kind))
                row.append(f"{value:.5f} | {ratio:.3f} ± {error:.3f}")
            print(" | ".join(row), "|", flush=True)
    if options.plot:
        size_plot.draw(points, options.plot, "Rounding by second moments: size against KL divergence")


def paired_ratio(values: Floats, alone: Floats) -> tuple[float, float]:
    """Return the ratio of two means over the same chunks, and its standard error (of a ratio estimator)."""
    ratio = float(values.mean() / alone.mean())
    count = len(values)
    spread = np.sqrt(np.square(values - ratio * alone).sum() / max(1, count * (count - 1)))
    return ratio, float(spread / alone.mean())


def split_text(text: Path, folder: Path) -> tuple[Path, Path]:
    """Write the first three quarters of the lines of a text, and the last, into files of their own."""
    lines = text.read_text(encoding="utf-8").splitlines(keepends=True)
    border = len(lines) * 3 // 4
    parts = folder / "first.txt", folder / "last.txt"
    for part, own in zip(parts, (lines[:border], lines[border:]), strict=True):
        part.write_text("".join(own), encoding="utf-8")
    return parts


def without_shrinkings(moments: Moments, path: Path) -> Moments:
    """Copy moments as if nothing had been chosen for them."""
    entries = map(moments.entry, moments.names)
    files.write(path, moments.provenance, files.widths_of(moments), entries)
    return files.read(path)


def time_shapes(size: str, kinds: list[str], threads: int) -> None:
    """Time some rows of each matrix of a layer, and the factors; print what a whole model would take."""
    for kind in kinds:
        timed = [time_input(kind, columns, rows, threads) for columns, rows in SHAPES[size]]
        total, text = (sum(seconds) for seconds in zip(*timed, strict=True))
        layers = LAYERS[size]
        print(f"{size} {kind}: {total[0]:.1f} s a layer, {minutes(total * layers)} in all", end="")
        of_text = f", and {minutes(text * layers)} for the sums of {TOKENS} tokens"
        print(of_text if kind == SEQUENTIAL else "", flush=True)


def clocks() -> Floats:
    """Return the time, and that of the processors, which depends less on what else runs: seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def minutes(seconds: Floats) -> str:
    """Say by what `clocks` differ."""
    return f"{seconds[0] / 60:.1f} minutes ({seconds[1] / 60:.1f} of a processor)"


def time_input(kind: str, columns: int, rows: int, threads: int) -> tuple[Floats, Floats]:
    """Return the seconds that an input of a layer takes, and those of its sums over TOKENS tokens (sequential).

    Of `sequential` these are sums, shifts, the choice of the shrinking and rounding; not the evaluation of the layer.
    """
    random = np.random.default_rng(0)
    weights = random.normal(size=(rows if kind == SEQUENTIAL else SLICE, columns)).astype(np.float32)
    seconds, text = np.zeros(2), np.zeros(2)
    if kind == SEQUENTIAL:
        x = random.normal(size=(512, columns)).astype(np.float32)
        sums = InputSums(columns, weights if rows == WRITTEN.get(columns) else None)
        stream = x[:, :1].repeat(rows, axis=1) if rows == WRITTEN.get(columns) else None
        started = clocks()
        for half in range(HALVES):
            sums.add(x, x + 0.1 * x[::-1], np.ones(len(x), np.float32), stream, half)
        text = (clocks() - started) * TOKENS / (HALVES * len(x))
        started = clocks()
        shifted = weights + sums.shifts({"w": weights})["w"].astype(np.float32)
        sums.shrinking({"w": shifted}, {"w": Type.Q4_K}, "full", threads)
        (one,) = sums.prepared("full", 0.2, threads)
        seconds = clocks() - started
    else:
        width = 256 if kind == "block" else columns
        x = random.normal(size=(512, width)).astype(np.float32)
        moments = x.T @ x / len(x) + np.eye(width, dtype=np.float32)
        started = clocks()
        one = prepare(moments, threads)
        seconds = (clocks() - started) * columns / width
    inputs = [one] * (columns // len(one.matrix))
    best = np.full(2, np.inf)
    for _ in range(2):  # the first time memory is new
        started = clocks()
        round_rows(weights[:SLICE], Type.Q4_K, inputs, threads=threads)
        best = np.minimum(best, clocks() - started)
    return seconds + best * rows / SLICE, text


if __name__ == "__main__":
    main()
