"""Evaluate the demo model with a ggml that is built with the patches and with sanitizers: `make sanitize-model`.

Kinds: "address" (with undefined behaviour), "thread". libllama is the installed one; the ggml below it, where all
kernels and patches of the CPU are, is compiled for the sanitizer, `--targets portable` without any instruction set.
What is known of others' code, with reasons: ubsan.txt and tsan.txt beside this file. Exit code 1 if one fails.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "patches")]

from faults import sanitize  # noqa: E402

BUILD = ROOT / "build" / "sanitize"
DEMO = ROOT / "examples" / "tiny-qwen3.5"
KINDS = {"address": "-fsanitize=address,undefined -fno-omit-frame-pointer", "thread": "-fsanitize=thread"}
# A name of no processor: ggml and the kernels then compile what is for all.
TARGETS = {
    "portable": ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=portable", "-DGGML_NATIVE=OFF"],
    "native": ["-DGGML_NATIVE=ON"],
}
# Without OpenMP, whose barriers are not seen by the sanitizer: ggml's own threads.
OPTIONS = ["-DBUILD_SHARED_LIBS=ON", "-DGGML_OPENMP=OFF", "-DGGML_CCACHE=ON", "-DCMAKE_BUILD_TYPE=None"]
OPTIONS += [f"-DLLAMA_{name}=OFF" for name in ("CURL", "OPENSSL", "BUILD_TESTS", "BUILD_TOOLS", "BUILD_SERVER")]
OPTIONS += ["-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_COMMON=OFF"]
QUANTS = ("Q4_K_M", "Q8_0", "Q3_K_M", "IQ4_XS", "Q5_0", "BF16")
CACHES = ("f16", "q8_0", "f32", "q4_0", "bf16")  # in turns, since every run takes most of a minute
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=9",
    "LSAN_OPTIONS": f"suppressions={HERE / 'lsan.txt'}:print_suppressions=0",
    "UBSAN_OPTIONS": f"suppressions={HERE / 'ubsan.txt'}:halt_on_error=1:print_stacktrace=1:exitcode=9",
    "TSAN_OPTIONS": f"suppressions={HERE / 'tsan.txt'}:halt_on_error=1:second_deadlock_stack=1:exitcode=9",
}


def source() -> Path:
    """Return the patched source, made anew."""
    from build import patch, series
    from sdist import NAME, fetch_sdist, unpack

    folder = BUILD / "llama.cpp"
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        unpack(fetch_sdist(), Path(scratch))
        patch(Path(scratch, NAME), series())
        made = Path(scratch, NAME, "vendor", "llama.cpp")
        _leave_unchecked(made / "ggml" / "src" / "ggml_ops" / "llama_cpp" / "kernels.cmake")
        for path in made.rglob("*"):  # what did not change is not compiled again
            old = folder / path.relative_to(made)
            if path.is_file() and old.is_file() and old.read_bytes() == path.read_bytes():
                shutil.copystat(old, path)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


def _leave_unchecked(kernels: Path) -> None:
    """Have targets that this processor does not have compiled without sanitizers, which take most of the time."""
    text, loop = kernels.read_text(encoding="utf-8"), "    foreach(SET_NAME IN LISTS ARGN)\n"
    if loop not in text:
        raise SystemExit(f"{kernels}: has no loop over targets any more; look for it as it is written now")
    idle = [name for name, flags in sanitize.TARGETS.items() if not sanitize.runs_here(flags)]
    for name in idle:
        text = text.replace(loop, f'    list(APPEND FLAGS_{name} "-fno-sanitize=all")\n{loop}')
    kernels.write_text(text, encoding="utf-8")


def build(kind: str, targets: str, llama: Path) -> Path:
    """Compile ggml and the program, and put them beside the installed libllama."""
    folder = BUILD / f"model-{kind}-{targets}"
    flags = f"-O1 -g1 {KINDS[kind]}"
    settings = [*OPTIONS, *TARGETS[targets], f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CXX_FLAGS={flags}"]
    configure = ["cmake", "-S", str(llama), "-B", str(folder), *settings]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    jobs = str(os.cpu_count() or 1)
    subprocess.run(["cmake", "--build", str(folder), "--parallel", jobs, "--target", "ggml"], check=True)
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise SystemExit("llama_cpp is not installed: make runtime")
    for library in Path(spec.origin).parent.joinpath("lib").glob("libllama.so*"):
        shutil.copy(library, folder / "bin" / library.name)
    program = folder / "bin" / "demo_model"
    include = [f"-I{llama / 'include'}", f"-I{llama / 'ggml' / 'include'}"]
    link = [f"-L{program.parent}", "-lllama", "-lggml", "-lggml-cpu", "-lggml-base", "-Wl,-rpath,$ORIGIN"]
    command = [os.environ.get("CXX", "c++"), "-std=c++17", *flags.split(), *include, str(HERE / "demo_model.cpp")]
    subprocess.run([*command, "-o", str(program), *link], check=True)
    return program


def run(kind: str, program: Path, models: Sequence[Path]) -> bool:
    """Evaluate each model; return whether nothing was found."""
    good, caches = True, itertools.cycle(CACHES)
    for path in models:
        for threads in ("1", "2") if kind == "address" else ("2", "3"):
            cache = next(caches)
            environment = {**os.environ, **ENVIRONMENT, "LD_LIBRARY_PATH": str(program.parent)}
            done = subprocess.run([str(program), str(path), threads, cache], env=environment, check=False)
            how = "passed" if done.returncode == 0 else f"exit code {done.returncode}"
            print(f"{kind}: {path.stem}, KV cache in {cache}, {threads} threads: {how}", flush=True)
            good &= done.returncode == 0
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and run each kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", help=f"without any: {', '.join(KINDS)}")
    parser.add_argument("--targets", choices=TARGETS, default="portable")
    parser.add_argument("--quants", default=",".join(QUANTS), help="of the demo model")
    options = parser.parse_args(arguments)
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"{', '.join(unknown)}: is not one of {', '.join(KINDS)}")
    from qwen35_gguf.convert import hf_to_gguf

    llama = source()
    with tempfile.TemporaryDirectory() as folder:
        quants = options.quants.split(",")
        models = [hf_to_gguf.convert(DEMO, quant, Path(folder), vision=False)[0] for quant in quants]
        found = [run(kind, build(kind, options.targets, llama), models) for kind in options.kinds or KINDS]
    return int(not all(found))


if __name__ == "__main__":
    sys.exit(main())
