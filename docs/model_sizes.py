"""Print download size, GGUF size, memory and bytes read per token for the sizes of Qwen3.5, as a Markdown table.

.venv/bin/python docs/model_sizes.py [--quant Q4_K_M] [--ctx 16384] [SIZE]...

Nothing is downloaded: checkpoints and GGUF files have the real shapes and headers, and holes instead of weights. Sizes
are those of files converted from them; memory is what `qwen35 plan` computes for them on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import make_checkpoint  # noqa: E402

from qwen35_gguf.cli import main as qwen35  # noqa: E402
from qwen35_gguf.convert.plan_files import ConversionOptions, PlannedFile, plan_conversion  # noqa: E402
from qwen35_gguf.gguf_file.format import DEFAULT_ALIGNMENT  # noqa: E402
from qwen35_gguf.gguf_file.header import contiguous, encode_header  # noqa: E402

SPECS = {name.upper(): spec for name, spec in make_checkpoint.SIZES.items() if name != "tiny"}


@dataclass(frozen=True)
class Sizes:
    """Bytes of one model: its checkpoint, its GGUF files, the memory of both, and what a token reads of the weights."""

    download: int
    text: int
    mmproj: int
    memory: int
    per_token: int


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=f"by default all: {', '.join(SPECS)}")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--ctx", type=int, default=16384)
    options = parser.parse_args()
    print(f"| Model | Download | {options.quant} + mmproj | RAM, {options.ctx:,} tokens | read per token |")
    print("|---|--:|--:|--:|--:|")
    for name in options.sizes or SPECS:
        found = measure(name, options.quant, options.ctx)
        print(
            f"| {name} | {found.download / 1e9:.1f} GB | {found.text / 1e9:.2f} + {found.mmproj / 1e9:.2f} GB "
            f"| {found.memory / 1e9:.1f} GB | {found.per_token / 1e9:.2f} GB |",
            flush=True,
        )


def measure(name: str, quant: str = "Q4_K_M", ctx: int = 16384) -> Sizes:
    """Plan a conversion and a load of the model of that size."""
    spec = SPECS[name]
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = sparse_checkpoint(Path(scratch, f"Qwen3.5-{name}"), spec)
        conversion = plan_conversion(ConversionOptions(checkpoint, quant, Path(scratch, "out")))
        text, mmproj = (sparse_gguf(file) for file in conversion.files)
        result = CliRunner().invoke(qwen35, ["plan", str(text), "--ctx", str(ctx), "--ram", "4000GB", "--json"])
        if result.exit_code:
            raise SystemExit(result.output)
        plan = json.loads(result.stdout)
        download = sum(file.stat().st_size for file in checkpoint.iterdir())
        used = sum(sum(usage["parts"].values()) for usage in plan["usage"])
        return Sizes(download, text.stat().st_size, mmproj.stat().st_size, used, per_token(conversion.files[0], spec))


def sparse_checkpoint(folder: Path, spec: make_checkpoint.Spec) -> Path:
    """Write a checkpoint whose weights are a hole in the file, but for a byte of the output matrix.

    A copy of the embedding would be taken for tied.
    """
    folder.mkdir()
    for name, content in make_checkpoint.side_files(spec).items():
        (folder / name).write_text(content, encoding="utf-8")
    header, end = {}, 0
    for tensor in make_checkpoint.tensors(spec):
        entry = {"dtype": tensor.dtype, "shape": tensor.stored, "data_offsets": [end, end + tensor.nbytes]}
        header[tensor.name] = entry
        end += tensor.nbytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path = folder / "model.safetensors"
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded)
    os.truncate(path, 8 + len(encoded) + end)
    if not spec.tie_word_embeddings:
        (output,) = (entry for name, entry in header.items() if name.endswith("lm_head.weight"))
        with path.open("r+b") as file:
            file.seek(8 + len(encoded) + output["data_offsets"][0])
            file.write(b"\x01")
    return folder


def sparse_gguf(file: PlannedFile) -> Path:
    """Write the header of a planned file, and a hole for its data."""
    file.path.parent.mkdir(exist_ok=True)
    header = encode_header(file.metadata, contiguous(file.infos, DEFAULT_ALIGNMENT), DEFAULT_ALIGNMENT)
    file.path.write_bytes(header)
    os.truncate(file.path, len(header) + sum(info.nbytes + -info.nbytes % DEFAULT_ALIGNMENT for info in file.infos))
    return file.path


def per_token(file: PlannedFile, spec: make_checkpoint.Spec) -> int:
    """Count the bytes of weights that decoding one token reads, without drafts.

    All layers and the output matrix; of the embedding only a row, unless it is also the output matrix; of the routed
    experts only those that are used; nothing of the MTP head.
    """
    total = 0.0
    for info in file.infos:
        if info.name.startswith(f"blk.{spec.num_hidden_layers}.") or (
            info.name == "token_embd.weight" and not spec.tie_word_embeddings
        ):
            continue
        share = spec.moe.num_experts_per_tok / spec.moe.num_experts if spec.moe and "_exps" in info.name else 1
        total += share * info.nbytes
    return round(total)


if __name__ == "__main__":
    main()
