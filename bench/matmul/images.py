"""Seconds that the vision encoder takes for an image: stock llama.cpp and the patched one, by size and type of file.

.venv/bin/python bench/matmul/images.py [--sizes 0.8b,9b] [--images 448x448,1024x768,1920x1080] [--rounds 3]
    [--threads 2] [--cpu avx2] [--folder DIR]

The encoder is that of a size, with random weights; the text model beside it, which is only loaded, has four
layers. Stock does not repack the weights of a vision encoder, so that its settings are the types of the file: BF16 is
its converter's default, the best of all types is the other column. Each measurement is a process of its own, which
encodes once to warm up; the sides take turns. --folder keeps the files.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime import BUILDS, CMAKE_ARGS, ROOT, child_environment, environment, rotated

TYPES = ("BF16", "F16", "Q8_0")
SIDES = {f"{build} {type_}": (build, type_) for build in BUILDS for type_ in TYPES}
IMAGES = ("448x448", "1024x768", "1920x1080")
FACTOR = 32  # sides are multiples of it, as the runtime makes them


def main() -> None:
    """Make environments and files, measure the sides in turns, print a row for each size and image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.8b,9b", help="of the model, separated by commas")
    parser.add_argument("--images", default=",".join(IMAGES), help="width x height, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", default="native", choices=CMAKE_ARGS, help="what both builds are compiled for")
    parser.add_argument("--folder", type=Path, help="keep the files there, and use existing ones")
    parser.add_argument("--python", nargs=2, metavar=tuple(name.upper() for name in BUILDS), help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=4, metavar=("MODEL", "MMPROJ", "IMAGE", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        model, mmproj, image, threads = options.child
        print(json.dumps(measure(model, mmproj, image, int(threads))))
        return
    given = options.python or [str(environment(build, options.cpu)) for build in BUILDS]
    pythons = dict(zip(BUILDS, given, strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        print(f"seconds for an image, {options.threads} threads, built for {options.cpu}, median of {options.rounds}")
        print(f"{'':<5}{'':>10}" + "".join(f"{name:>14}" for name in SIDES) + f"{'BF16':>8}{'Q8_0':>8}{'to best':>9}")
        for size in options.sizes.split(","):
            folder = (options.folder or Path(scratch)) / size
            files = {type_: make_files(folder, size, type_) for type_ in TYPES}
            for image in options.images.split(","):
                row = compare(pythons, files, image, options)
                print_row(size, image, row)


def print_row(size: str, image: str, row: dict[str, float]) -> None:
    """Print the seconds of all sides, and how many times faster than stock's default, and than its best, ours is."""
    default, best = row["stock BF16"], min(row[f"stock {type_}"] for type_ in TYPES)
    ours = {type_: row[f"patched {type_}"] for type_ in TYPES}
    ratios = f"{default / ours['BF16']:>8.2f}{default / ours['Q8_0']:>8.2f}{best / min(ours.values()):>9.2f}"
    print(f"{size:<5}{image:>10}" + "".join(f"{value:>14.2f}" for value in row.values()) + ratios, flush=True)


def compare(
    pythons: dict[str, str], files: dict[str, tuple[Path, Path]], image: str, options: argparse.Namespace
) -> dict[str, float]:
    """Encode an image of that size on every side, in turns: the median seconds of each."""
    found: dict[str, list[float]] = {name: [] for name in SIDES}
    for number in range(options.rounds):
        for name in rotated(SIDES, number):
            build, type_ = SIDES[name]
            command = [pythons[build], __file__, "--child", *map(str, files[type_]), image, str(options.threads)]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=child_environment(options.cpu)
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def make_files(folder: Path, size: str, type_: str) -> tuple[Path, Path]:
    """Make a checkpoint with the vision encoder of that size, and convert it."""
    checkpoint, out = folder / "checkpoint", folder / type_
    if not out.is_dir():
        if not checkpoint.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            make = [sys.executable, str(ROOT / "examples" / "make_checkpoint.py"), str(checkpoint), "--size", size]
            run([*make, "--layers", "4", "--vocab", "2000", "--no-mtp"])
        script = str(ROOT / "convert" / "hf_to_gguf.py")
        run([sys.executable, script, str(checkpoint), "-q", "Q4_0", "--mmproj-type", type_, "-o", str(out)])
    (mmproj,) = out.glob("mmproj-*.gguf")
    (text,) = (file for file in out.glob("*.gguf") if file != mmproj)
    return text, mmproj


def run(command: list[str]) -> None:
    """Run a command in silence."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(model: str, mmproj: str, image: str, threads: int) -> float:
    """Encode an image twice; return the seconds of the second time."""
    import llama_cpp
    from llama_cpp import mtmd_cpp as mtmd

    width, height = (int(side) // FACTOR * FACTOR for side in image.split("x"))
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.warmup, params.print_timings, params.n_threads = False, False, False, threads
    params.image_min_tokens, params.image_max_tokens = 1, 1 << 20
    context = mtmd.mtmd_init_from_file(mmproj.encode(), loaded, params)
    pixels = bytes(range(256)) * (3 * width * height // 256)
    chunk = image_chunk(mtmd, context, pixels, width, height)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        if mtmd.mtmd_encode_chunk(context, chunk):
            raise SystemExit("mtmd_encode_chunk failed")
        seconds.append(time.perf_counter() - start)
    return seconds[-1]


def image_chunk(mtmd: Any, context: Any, pixels: bytes, width: int, height: int) -> Any:
    """Return the chunk of an image."""
    buffer = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
    bitmap = mtmd.mtmd_bitmap_init(width, height, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint8)))
    chunks = mtmd.mtmd_input_chunks_init()
    text = mtmd.mtmd_input_text()
    text.text = mtmd.mtmd_default_marker()
    text.text_len, text.add_special, text.parse_special = len(text.text), False, True
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    if mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1):
        raise SystemExit("mtmd_tokenize failed")
    found = [mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks))]
    (image,) = (c for c in found if mtmd.mtmd_input_chunk_get_type(c) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE)
    return image


if __name__ == "__main__":
    main()
