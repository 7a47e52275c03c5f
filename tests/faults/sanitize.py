"""Run the kernels with random inputs under sanitizers: `make sanitize`.

Kinds: "address" (with undefined behaviour), "thread", "valgrind"; "fuzzer", inputs that libFuzzer chooses by what they
reach (`make fuzz`), where clang is installed. `random_kernels.cpp` is compiled with the kernels of
`--targets`: portable C++ alone compiles in a minute, those of a processor in several. Exit code 1 if one fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "ggml_ops"
BUILD = ROOT / "build" / "sanitize"
ROOMS = ("kquants", "quantized_matmul", "float_matmul", "delta_net", "attention", "moment_rounding")
OTHERS = ("attention/problem.cpp", "simd/cpu.cpp", *(f"{room}/dispatch.cpp" for room in ROOMS))
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"]
AVX2 = ["-mavx2", "-mf16c", "-mfma"]
# Flags of the sources target_NAME.cpp, as in ggml_ops/simd/targets.cmake.
TARGETS: dict[str, list[str]] = {
    "portable": [],
    "avx2": AVX2,
    "avxvnni": [*AVX2, "-mavxvnni"],
    "avx512": AVX512,
    "avx512vnni": [*AVX512, "-mavx512vnni"],
    "avx512bf16": [*AVX512, "-mavx512bf16"],
    "avx512vbmi": [*AVX512, "-mavx512vnni", "-mavx512vbmi", "-mgfni"],
}
COMMON = ["-std=c++17", "-g1", "-DMATMUL_REFERENCE", "-ffp-contract=off", f"-I{KERNELS}", "-pthread"]
CPUINFO = Path("/proc/cpuinfo")
# How Linux names what GCC names otherwise.
NAMES = {
    "-mavxvnni": "avx_vnni",
    "-mavx512vnni": "avx512_vnni",
    "-mavx512bf16": "avx512_bf16",
    "-mavx512vbmi": "avx512vbmi",
}
KINDS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
    "thread": ["-fsanitize=thread"],
    "valgrind": [],
    "fuzzer": ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-DLIBFUZZER"],
}
LONGEST = 1 << 14  # bytes of an input


def build(kind: str, *, native: bool) -> Path:
    """Compile the program with the kernels of this processor, or the portable ones."""
    folder = BUILD / (f"{kind}-native" if native else kind)
    folder.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CXX", "g++") if kind != "fuzzer" else clang()
    if compiler is None:
        raise SystemExit("libFuzzer needs clang: apt-get install clang")
    flags = [*COMMON, *(["-DSIMD_X86"] if native else [])]
    checked, unchecked = ["-O1", *KINDS[kind]], ["-O0"]
    objects, idle = [], []
    sources = [(KERNELS / name, list[str]()) for name in OTHERS]
    for room in ROOMS:
        for path in sorted((KERNELS / room).glob("target_*.cpp")):
            own = TARGETS.get(path.stem.removeprefix("target_"))
            if own is not None and (native or not own):
                sources.append((path, own))
    sources.append((Path(__file__).with_name("random_kernels.cpp"), []))
    for path, own in sources:
        made = folder / f"{path.parent.name}-{path.stem}.o"
        runs = runs_here(own)
        (objects if runs else idle).append(made)
        if not made.exists() or made.stat().st_mtime < _newest():
            how = [*flags, *(checked if runs else unchecked), *own]
            subprocess.run([compiler, *how, "-c", str(path), "-o", str(made)], check=True)
    program = folder / "random_kernels"
    # Of functions that several have, the first is linked: not one of a target that this processor does not have.
    subprocess.run([compiler, *flags, *checked, *map(str, [*objects, *idle]), "-o", str(program)], check=True)
    return program


def runs_here(flags: Sequence[str]) -> bool:
    """Tell whether this processor has a target; one that it does not have is linked, and never called."""
    wanted = {NAMES.get(flag, flag.removeprefix("-m")) for flag in flags}
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    known = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return known is None or wanted <= set(known)


def clang() -> str | None:
    """Return the newest clang++ that is installed."""
    names = ["clang++", *(f"clang++-{version}" for version in range(30, 13, -1))]
    return next((name for name in names if shutil.which(name)), None)


def _newest() -> float:
    """When the kernels were last changed."""
    files = [*KERNELS.rglob("*.h"), *KERNELS.rglob("*.cpp"), Path(__file__).with_name("random_kernels.cpp")]
    return max(path.stat().st_mtime for path in files)


def run(kind: str, program: Path, seconds: float, seed: int) -> bool:
    """Run it; return whether nothing was found."""
    command = [str(program), str(seconds), str(seed)]
    if kind == "thread":
        command.append("two")
    if kind == "fuzzer":
        inputs = program.parent / "inputs"
        inputs.mkdir(exist_ok=True)
        command = [str(program), f"-max_total_time={round(seconds)}", f"-max_len={LONGEST}", "-len_control=0"]
        command += ["-print_final_stats=1", "-verbosity=0", f"-artifact_prefix={program.parent}/fault-", str(inputs)]
    if kind == "valgrind":
        command = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", *command]
    done = subprocess.run(command, check=False)
    print(f"{kind}: {'passed' if done.returncode == 0 else f'exit code {done.returncode}'}", flush=True)
    return done.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and run each kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", help=f"without any: {', '.join(KINDS)}")
    parser.add_argument("--targets", choices=("portable", "native"), default="portable")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"{', '.join(unknown)}: is not one of {', '.join(KINDS)}")
    absent = {"valgrind": not shutil.which("valgrind"), "fuzzer": True}
    kinds = options.kinds or [kind for kind in KINDS if not absent.get(kind)]
    found = [
        run(kind, build(kind, native=options.targets == "native" and kind != "valgrind"), options.seconds, options.seed)
        for kind in kinds
    ]
    return int(not all(found))


if __name__ == "__main__":
    sys.exit(main())
