"""Which tensors a file's divergence comes from: embedding, output matrix or layers alone quantized, the rest exact.

.venv/bin/python bench/rounding/rounding.py --checkpoint CHECKPOINT --kinds full --folder FOLDER
.venv/bin/python bench/rounding/tensors.py FOLDER [--presets Q2_K,Q4_K_M] [--kinds importance,full]

The first command makes the files, the second writes their weights, restored, into copies of the reference.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from texts import made

from qwen35_gguf.evaluation import kl_divergence
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data
from qwen35_gguf.quant import kernels

PARTS: dict[str, Callable[[str], bool]] = {
    "embedding": lambda name: name == "token_embd.weight",
    "output matrix": lambda name: name == "output.weight",
    "layers": lambda name: name.startswith("blk."),
    "all": bool,
}


def main() -> None:
    """Print a row for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--presets", default="Q2_K,Q4_K_M")
    parser.add_argument("--kinds", default="importance,full")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    (reference,) = options.folder.glob("*-F32.gguf")
    print(f"| File | | {' | '.join(PARTS)} |\n|---|---|{'--:|' * len(PARTS)}")
    with tempfile.TemporaryDirectory() as scratch:
        for quant in options.presets.split(","):
            for kind in options.kinds.split(","):
                values = []
                for belongs in PARTS.values():
                    mixed = restore(made(options.folder, quant, kind), belongs, reference, Path(scratch, "mixed.gguf"))
                    found = kl_divergence.evaluate(mixed, options.folder / "base", threads=options.threads)
                    values.append(f"{found.mean.value:.5f}")
                print(f"| {quant} | {kind} | {' | '.join(values)} |", flush=True)


def restore(file: Path, belongs: Callable[[str], bool], reference: Path, out: Path) -> Path:
    """Copy the reference, in F32, with the weights of some tensors as a quantized file has them."""
    shutil.copy(reference, out)
    header, target = read_header(file), read_header(out)
    mapped, changed = map_data(header), np.memmap(out, np.uint8, "r+")
    for tensor in header.tensors:
        wanted = target.tensor(tensor.name)
        if wanted is None or tensor.type == wanted.type or not belongs(tensor.name):
            continue
        values = kernels.dequantize(tensor_data(header, tensor, mapped), tensor.type, tensor.shape[-1])
        place = tensor_data(target, wanted, changed)
        place[...] = np.ascontiguousarray(values, np.float32).view(np.uint8).reshape(place.shape)
    changed.flush()
    return out


if __name__ == "__main__":
    main()
