"""Files with all layers of a published model and random weights, in seconds: blocks are repeated, not computed.

.venv/bin/python bench/gpu/shapes.py 9b [--layers N] [--quant Q4_K_M] [--out FOLDER] [--header-only]

The header is that of a conversion. A few million normal numbers are quantized for each type and row length; every
tensor is filled with these blocks, beginning at another place, so that scales are those of real weights and no two
matrices are equal. `--header-only` writes files that end before the data; `fill` completes such a file.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from qwen35_gguf.convert.plan_files import ConversionOptions, plan_conversion
from qwen35_gguf.errors import GgufError
from qwen35_gguf.gguf_file.format import DEFAULT_ALIGNMENT
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo, contiguous, encode_header
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.quant.kernels import quantize

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
from model_sizes import SPECS, sparse_checkpoint

POOL = 1 << 22  # weights that are quantized for each type and row length
DRAFT_ROWS = 32768  # of the output matrix, that the MTP head predicts
CHUNK = 1 << 26  # bytes that one thread writes at a time
LARGEST = 1 << 37  # bytes of a file
F32 = GGMLQuantizationType.F32


def main() -> None:
    """Write the files and print their paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=[name.lower() for name in SPECS])
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--header-only", action="store_true")
    options = parser.parse_args()
    for path in write_headers(options.size, options.quant, options.out, options.layers):
        if not options.header_only:
            fill(path)
        print(path)


def write_headers(size: str, quant: str, out: Path, layers: int | None = None) -> list[Path]:
    """Write the text model and the vision encoder of a size, without data; return their paths."""
    spec = SPECS[size.upper()]
    spec = replace(spec, num_hidden_layers=layers or spec.num_hidden_layers)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = sparse_checkpoint(Path(scratch, f"Qwen3.5-{size.upper()}"), spec)
        files = plan_conversion(ConversionOptions(checkpoint, quant, Path(scratch, "out"))).files
        text, mmproj = (out / f"{prefix}Qwen3.5-{size.upper()}-{quant}.gguf" for prefix in ("", "mmproj-"))
        for path, file in zip((text, mmproj), files, strict=True):
            infos, metadata = contiguous(file.infos, DEFAULT_ALIGNMENT), list(file.metadata)
            if path is text:
                key = f"{'qwen35moe' if spec.moe else 'qwen35'}.nextn_vocab_size"
                metadata.append(KeyValue.of(key, DRAFT_ROWS, GGUFValueType.UINT32))
            path.write_bytes(encode_header(metadata, infos, DEFAULT_ALIGNMENT))
    return [text, mmproj]


def fill(path: Path, threads: int = 0) -> None:
    """Write the data of a file that has its header only."""
    os.truncate(path, LARGEST)  # the reader compares the size with what the tensors need
    header = read_header(path)
    end = max(header.data_start + tensor.offset + tensor.nbytes for tensor in header.tensors)
    os.truncate(path, -(-end // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool, path.open("r+b") as file:
        wanted = {(tensor.type, tensor.shape[-1]) for tensor in header.tensors if tensor.type is not F32}
        for done in [pool.submit(blocks, kind, columns) for kind, columns in sorted(wanted)]:
            done.result()
        for done in [pool.submit(write, file.fileno(), header, *part) for part in parts(header)]:
            done.result()


def is_header(path: Path) -> bool:
    """Report whether a file ends before its data."""
    try:
        read_header(path)
    except GgufError:
        return True
    return False


def parts(header: GgufHeader) -> list[tuple[TensorInfo, int, int]]:
    """Divide the tensors into ranges of bytes, largest tensors first."""
    ordered = sorted(header.tensors, key=lambda tensor: -tensor.nbytes)
    return [
        (tensor, start, min(tensor.nbytes, start + CHUNK))
        for tensor in ordered
        for start in range(0, tensor.nbytes, CHUNK)
    ]


def write(file: int, header: GgufHeader, tensor: TensorInfo, start: int, stop: int) -> None:
    """Write a range of a tensor: blocks of the pool from a place that depends on the name."""
    if tensor.type is F32:
        source, place = memoryview(floats(tensor).tobytes()), start
    else:
        source = blocks(tensor.type, tensor.shape[-1])
        rows = len(source) // tensor.row_bytes
        place = (zlib.crc32(tensor.name.encode()) % rows * tensor.row_bytes + start) % len(source)
    at = header.data_start + tensor.offset + start
    while start < stop:
        written = os.pwrite(file, source[place : place + stop - start], at)
        start, at, place = start + written, at + written, (place + written) % len(source)


@functools.cache
def blocks(kind: GGMLQuantizationType, columns: int) -> memoryview:
    """Return rows of random weights of a type, whose deviation is that of a matrix with N columns."""
    random = np.random.default_rng(columns)
    rows = random.standard_normal((max(1, POOL // columns), columns), dtype=np.float32) * np.float32(columns**-0.5)
    return memoryview(quantize(rows, kind, threads=1).tobytes())


def floats(tensor: TensorInfo) -> np.ndarray:
    """Return the values of an F32 tensor, by its name."""
    random = np.random.default_rng(zlib.crc32(tensor.name.encode()))
    if tensor.name.endswith("ssm_a"):
        return -random.uniform(1, 16, tensor.shape).astype(np.float32)
    if tensor.name.endswith("ssm_dt.bias"):
        return random.uniform(-1, 1, tensor.shape).astype(np.float32)
    normal = random.standard_normal(tensor.shape, dtype=np.float32)
    if len(tensor.shape) > 1:
        position = "position_embd" in tensor.name
        return normal * np.float32(0.5 if position else np.prod(tensor.shape[1:]) ** -0.5)
    return normal * np.float32(0.1) + np.float32("bias" not in tensor.name)


if __name__ == "__main__":
    main()
