"""Checkpoint to quantized GGUF and mmproj, side by side with the stock tools of llama.cpp: cost, then every byte.

.venv/bin/python bench/convert.py --size 0.8b --quant Q4_K_M

Stock is convert_hf_to_gguf.py to BF16, llama-quantize of the result, and convert_hf_to_gguf.py --mmproj; ours is one
call that writes the same two files. Each step is a process of its own. Ours flushes its files to disk before it ends,
stock does not; neither time is corrected for that. Metadata is compared by tests/convert/test_metadata.py, not here.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from stock import Stock, build_stock, fail

if TYPE_CHECKING:  # imported where it is needed: see run_step
    import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
SIZES = ("tiny", "0.8b", "2b", "4b", "9b", "27b", "35b-a3b")
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Cost:
    """The cost of a side: seconds of wall and CPU time, peak resident bytes, bytes of all files written."""

    wall: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0
    written: float = 0.0

    def then(self, other: Cost) -> Cost:
        """Add a step that ran after this one."""
        return Cost(
            self.wall + other.wall, self.cpu + other.cpu, max(self.peak, other.peak), self.written + other.written
        )

    def over(self, other: Cost) -> Cost:
        """Divide figure by figure."""
        return Cost(self.wall / other.wall, self.cpu / other.cpu, self.peak / other.peak, self.written / other.written)


@dataclass(frozen=True)
class Task:
    """The input of both sides."""

    checkpoint: Path
    quant: str
    jobs: int


@dataclass(frozen=True)
class Difference:
    """A tensor that the two files do not agree on. `ulps` is set where only last places of ssm_a differ."""

    name: str
    reason: str
    ulps: int | None = None


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        fail(message)


def main() -> None:
    """Make the checkpoint, run the sides in turns, report."""
    options = parse()
    stock = None if options.ours_only else build_stock()
    with tempfile.TemporaryDirectory(prefix="bench-convert-") as scratch:
        folder = options.keep or Path(scratch)
        checkpoint = make_checkpoint(folder, options.size, options.layers)
        cold, warm = time_reading(checkpoint)
        costs = measure(Task(checkpoint, options.quant, options.jobs), folder, stock, options.rounds)
        print(
            f"{checkpoint.name} to {options.quant}, {options.jobs} threads, of {options.rounds}: median, highest peak"
        )
        print_table(costs)
        passed = stock is None or print_comparison(folder)
        print_text_bytes(costs, folder)
        print_reading(checkpoint, cold, warm)
    if not passed:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """Read and check the command line; a mistake is one line and exit code 2."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b", help=", ".join(SIZES))
    parser.add_argument("--layers", type=int, help="fewer than the size has: peak memory does not depend on them")
    parser.add_argument("--quant", default="Q4_K_M", help="any llama.cpp quantization name (default: Q4_K_M)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads of each side")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side, interleaved")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the checkpoint and the results here; reuse the first"
    )
    parser.add_argument("--ours-only", action="store_true", help="do not build, run or compare with the stock tools")
    options = parser.parse_args()
    if options.size not in SIZES:
        fail(f"--size {options.size}: unknown; choose one of {', '.join(SIZES)}")
    if options.jobs < 1 or options.rounds < 1:
        fail("--jobs and --rounds must be 1 or more")
    options.quant = options.quant.upper()
    check_quant(options.quant)
    if not options.ours_only and not importlib.util.find_spec("torch"):
        fail("torch is not installed, and the stock converter needs it; pip install -e '.[test]', or use --ours-only")
    if options.keep:
        try:
            options.keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"--keep {options.keep}: cannot be made ({error.strerror}); choose another directory")
    return options


def check_quant(name: str) -> None:
    """Reject a misspelled name early; in another process, so that the memory of this one stays small."""
    code = "import sys; from qwen35_gguf.quant import presets; presets.find_preset(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=False)
    if done.returncode:
        fail((done.stderr.strip() or "the recipes cannot be read").splitlines()[-1].rpartition("Error: ")[2])


def make_checkpoint(folder: Path, size: str, layers: int | None) -> Path:
    """Make the checkpoint with the whole vocabulary (the stock converter supports no other), unless it is there."""
    target = folder / (f"checkpoint-{size}" + (f"-{layers}-layers" if layers else ""))
    if not (target / "config.json").is_file():
        unfinished = target.with_name(f"{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        script = str(REPOSITORY / "examples" / "make_checkpoint.py")
        command = [sys.executable, script, str(unfinished), "--size", size, "--vocab", "full"]
        command += ["--layers", str(layers)] if layers else []
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            fail(f"{unfinished}: the checkpoint cannot be made; the output above says why")
        unfinished.rename(target)
    return target


def measure(task: Task, folder: Path, stock: Stock | None, rounds: int) -> dict[str, Cost]:
    """Run the sides in turns, the first one alternating, and summarize each."""
    costs: dict[str, list[Cost]] = {"ours": []} if stock is None else {"stock": [], "ours": []}
    for number in range(rounds):
        for side in reversed(costs) if number % 2 else costs:
            out = folder / side
            clear(out)
            cost = run_ours(task, out) if stock is None or side == "ours" else run_stock(task, out, stock)
            costs[side].append(cost)
    return {side: summarize(measured) for side, measured in costs.items()}


def clear(folder: Path) -> None:
    """Make an empty folder for results."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.gguf"):
        file.unlink()


def run_ours(task: Task, out: Path) -> Cost:
    """Checkpoint to both files in one step; the mmproj in the type of the stock converter's."""
    script = str(REPOSITORY / "convert" / "hf_to_gguf.py")
    command = [sys.executable, script, str(task.checkpoint), "-q", task.quant, "-o", str(out)]
    return run_step([*command, "--mmproj-type", "BF16", "--jobs", str(task.jobs)], out)


def run_stock(task: Task, out: Path, stock: Stock) -> Cost:
    """Checkpoint to BF16, to the quantized file, and once more to the mmproj; the BF16 file counts as written."""
    convert = [sys.executable, str(stock.converter), str(task.checkpoint), "--outtype", "bf16", "--outfile"]
    full = out / "bf16.gguf"
    cost = run_step([*convert, str(full)], out)
    quantize = [str(stock.quantize), str(full), str(out / f"{task.quant}.gguf"), task.quant, str(task.jobs)]
    cost = cost.then(run_step(quantize, out))
    full.unlink()
    return cost.then(run_step([*convert, str(out / "mmproj.gguf"), "--mmproj"], out))


def run_step(command: Sequence[str], out: Path) -> Cost:
    """Run one process to its end. `out` is where it writes: what is new there afterwards is what it wrote.

    A child's peak starts at the memory that its parent held when it was started; this process stays small until the
    last child has run.
    """
    os.sync()  # so that this step does not wait for the writes of an earlier one
    before = set(out.iterdir())
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            print(log.read().decode(errors="replace").strip()[-2000:], file=sys.stderr)
            fail(
                f"{Path(command[0]).name} {Path(command[1]).name} failed; its output is above",
                max(1, child.returncode),
            )
    written = sum(file.stat().st_size for file in out.iterdir() if file not in before)
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * RSS_UNIT, written)


def summarize(costs: Sequence[Cost]) -> Cost:
    """Take the median of the times and the highest peak."""
    return Cost(
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.cpu for cost in costs),
        max(cost.peak for cost in costs),
        costs[-1].written,
    )


def time_reading(checkpoint: Path) -> tuple[float | None, float]:
    """Time reading all weights, from disk (None where the page cache cannot be dropped), then from the page cache.

    This is the least that a conversion costs. It also leaves the page cache warm for the side that runs first.
    """
    files = sorted(checkpoint.glob("*.safetensors"))
    cold = None
    if hasattr(os, "posix_fadvise"):
        for file in files:
            drop_pages(file)
        cold = read_all(files)
    else:
        read_all(files)
    return cold, read_all(files)


def drop_pages(file: Path) -> None:
    """Drop a file from the page cache; pages that are not on the disk yet would stay, so they are flushed first."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(files: Sequence[Path]) -> float:
    """Read the files from start to end, and return the seconds it took."""
    buffer = bytearray(READ_BYTES)
    start = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - start


def print_table(costs: dict[str, Cost]) -> None:
    """Print a row for each side, and the ratio of stock to ours."""
    print(f"{'':<12}{'wall s':>10}{'CPU s':>10}{'peak MB':>12}{'written MB':>12}")
    for side, cost in costs.items():
        print(f"{side:<12}{cost.wall:>10.1f}{cost.cpu:>10.1f}{cost.peak / 1e6:>12,.0f}{cost.written / 1e6:>12,.0f}")
    if len(costs) == 2:
        ratio = costs["stock"].over(costs["ours"])
        print(f"{'stock/ours':<12}{ratio.wall:>10.2f}{ratio.cpu:>10.2f}{ratio.peak:>12.2f}{ratio.written:>12.2f}")


def print_comparison(folder: Path) -> bool:
    """Compare the text files and the mmproj files; return whether nothing differs but the last place of ssm_a."""
    total, differences = 0, []
    for vision in (False, True):
        stock, ours = (only_file(folder / side, vision) for side in ("stock", "ours"))
        number, found = compare(stock, ours)
        total += number
        differences += found
    rounded = [difference.ulps for difference in differences if difference.ulps is not None]
    wrong = [difference for difference in differences if difference.ulps is None]
    for difference in wrong:
        print(f"differs: {difference.name}: {difference.reason}")
    if not differences:
        print(f"all {total} tensors equal")
    else:
        equal = total - len(differences)
        print(f"{equal} of {total} tensors equal; {len(rounded)} ssm_a differ by at most {max(rounded, default=0)} ulp")
    return not wrong


def print_text_bytes(costs: dict[str, Cost], folder: Path) -> None:
    """Print the bytes written for the text model alone; the mmproj is the same on both sides and written once."""
    text = {side: cost.written - only_file(folder / side, vision=True).stat().st_size for side, cost in costs.items()}
    parts = ", ".join(f"{side} {size / 1e6:,.0f} MB" for side, size in text.items())
    share = f" ({text['ours'] / text['stock']:.0%})" if "stock" in text else ""
    print(f"written for the text model alone: {parts}{share}")


def only_file(folder: Path, vision: bool) -> Path:
    """Find the text file or the mmproj file of a side."""
    found = [file for file in folder.glob("*.gguf") if file.name.startswith("mmproj") == vision]
    if len(found) != 1:
        fail(f"{folder}: holds {len(found)} {'mmproj' if vision else 'text'} files, expected one", 1)
    return found[0]


def compare(stock: Path, ours: Path) -> tuple[int, list[Difference]]:
    """Compare two files tensor by tensor: names, types, shapes and bytes. Returns the number of names as well."""
    from gguf import GGUFReader

    left = {tensor.name: tensor for tensor in GGUFReader(stock).tensors}
    right = {tensor.name: tensor for tensor in GGUFReader(ours).tensors}
    names = sorted(left.keys() | right.keys())
    found = [compare_tensor(name, left.get(name), right.get(name)) for name in names]
    return len(names), [difference for difference in found if difference]


def compare_tensor(name: str, stock: Any, ours: Any) -> Difference | None:
    """Compare one tensor; ssm_a is an exponential, whose last place differs between libraries."""
    import numpy as np

    if stock is None or ours is None:
        return Difference(name, "only in the file of " + ("ours" if stock is None else "stock"))
    if stock.tensor_type != ours.tensor_type:
        return Difference(name, f"stock has type {stock.tensor_type.name}, ours {ours.tensor_type.name}")
    shapes = [tensor.shape.tolist() for tensor in (stock, ours)]
    if shapes[0] != shapes[1]:
        return Difference(name, f"stock has shape {shapes[0]}, ours {shapes[1]}")
    left, right = (np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8) for tensor in (stock, ours))
    if np.array_equal(left, right):
        return None
    if name.endswith(".ssm_a") and stock.tensor_type.name == "F32":
        ulps = max_ulps(left, right)
        return Difference(name, f"differs by {ulps} ulp", ulps if ulps <= 1 else None)
    return Difference(name, f"{np.count_nonzero(left != right)} of {left.size} bytes differ")


def max_ulps(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> int:
    """Count the F32 values between two arrays, given as bytes, at the place where that is the most."""
    import numpy as np

    bits = [values.view(np.int32).astype(np.int64) for values in (left, right)]
    # Negative floats count downwards from the sign bit.
    ranks = [np.where(values < 0, -(values & 0x7FFFFFFF), values) for values in bits]
    return int(np.abs(ranks[0] - ranks[1]).max())


def print_reading(checkpoint: Path, cold: float | None, warm: float) -> None:
    """Print how long reading the weights alone takes."""
    size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    disk = "not measured" if cold is None else f"{cold:.2f} s ({size / cold / 1e6:,.0f} MB/s)"
    cache = f"{warm:.2f} s ({size / warm / 1e6:,.0f} MB/s)"
    print(f"reading the checkpoint, {size / 1e6:,.0f} MB: from disk {disk}, from the page cache {cache}")


if __name__ == "__main__":
    main()
