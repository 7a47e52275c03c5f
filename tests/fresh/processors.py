"""Convert and run the demo from the wheels of `make wheels` on other processors, emulated.

python tests/fresh/processors.py [--dist dist] [--work .cache/fresh] [Nehalem Haswell Skylake-Client aarch64]

Nehalem (no AVX), Haswell (AVX2) and Skylake-Client (what qemu emulates of it) are `qemu-x86_64 -cpu NAME` with the
Python of this machine. aarch64 is `qemu-aarch64` with the Python of a Debian whose packages debootstrap unpacks; it
takes the wheel for all Pythons from 3.12 on. On each, the converted file must have the bytes of this machine's, and the
answer must be right. qemu-user and debootstrap are packages of Debian.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bare_root import ROOT, mirror

X86 = ("Nehalem", "Haswell", "Skylake-Client")
ARM = "aarch64"
ARM_SUITE, ARM_PYTHON = "trixie", "3.13"
DEMO = ROOT / "examples" / "tiny-qwen3.5"
QUESTION, ANSWER = "What is the capital of France?", "Paris"
NAMES = ["qwen35-gguf[runtime]"]


def main() -> None:
    """Install, and try each processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processors", nargs="*", metavar="PROCESSOR", help="without any, all of them")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="what `make wheels` wrote")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "fresh", help="for file systems and downloads")
    options = parser.parse_args()
    processors = options.processors or [*X86, ARM]
    if unknown := set(processors) - {*X86, ARM}:
        sys.exit(f"error: {', '.join(sorted(unknown))}: not one of {', '.join((*X86, ARM))}")
    needed = {f"qemu-{'aarch64' if name == ARM else 'x86_64'}" for name in processors}
    if missing := sorted(program for program in needed if not shutil.which(program)):
        sys.exit(f"error: {', '.join(missing)}: not installed; install it: apt-get install qemu-user")
    work = options.work.resolve()
    here = [str(environment(work, options.dist)), "-m", "qwen35_gguf.cli"]
    with step("this machine"):
        native = convert(here, work / "native")
        ask(here, native)
    for name in processors:
        command = emulated_arm(work, options.dist) if name == ARM else ["qemu-x86_64", "-cpu", name, *here]
        with step(f"{name}: convert, the same bytes"):
            file = convert(command, work / name)
            if file.read_bytes() != native.read_bytes():
                sys.exit(f"error: {file}: has other bytes than {native}")
        with step(f"{name}: run"):
            ask(command, file)
    print("== all processors passed")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print how long it took, if it did not fail."""
    start = time.monotonic()
    yield
    print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)


def convert(command: list[str], folder: Path) -> Path:
    """Convert the demo; return the file of the language model."""
    shutil.rmtree(folder, ignore_errors=True)
    call([*command, "convert", str(DEMO), "-q", "Q4_K_M", "-o", str(folder), "--quiet"])
    return next(file for file in folder.glob("*.gguf") if not file.name.startswith("mmproj"))


def ask(command: list[str], file: Path) -> None:
    """Have the model answer, and end if it does not know."""
    answer = call([*command, "run", str(file), QUESTION])
    if ANSWER not in answer:
        sys.exit(f"error: {file}: a wrong answer: {answer}")


def call(command: list[str]) -> str:
    """Run it outside of this checkout; return what it printed, or end with its error."""
    unset = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "QWEN35_CPU")}
    env = unset | ({"PYTHONPATH": command.pop(0)} if Path(command[0]).is_dir() else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=env)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def environment(work: Path, dist: Path) -> Path:
    """Make an environment of this Python with the wheels; return its Python."""
    folder = work / "environment"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--find-links", str(dist), *NAMES]
    subprocess.run(install, check=True)
    return python


def emulated_arm(work: Path, dist: Path) -> list[str]:
    """Unpack a Python for ARM and the wheels for it; return the command that runs ours, after its folder of packages.

    Nothing of it is installed: the maintainers' scripts of Debian and pip would have to run in the emulator.
    """
    root, packages = work / f"root-{ARM}", work / f"packages-{ARM}"
    python = root / "usr" / "bin" / f"python{ARM_PYTHON}"
    if not python.exists():
        unpack = ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", "--include=python3", ARM_SUITE]
        subprocess.run([*unpack, str(root), mirror()], check=True, stdout=subprocess.DEVNULL)
        for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    shutil.rmtree(packages, ignore_errors=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--find-links", str(dist)]
    download += ["--python-version", ARM_PYTHON, "--implementation", "cp", "--abi", "abi3", "--abi", "none"]
    download += ["--abi", f"cp{ARM_PYTHON.replace('.', '')}"]
    for glibc in (17, 24, 27, 28, 31, 34):
        download += ["--platform", f"manylinux_2_{glibc}_{ARM}"]
    download += ["--platform", f"manylinux2014_{ARM}", "--dest", str(packages / "wheels")]
    subprocess.run([*download, *NAMES], check=True)
    for wheel in (packages / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(packages / "site")
    return [str(packages / "site"), "qemu-aarch64", "-L", str(root), str(python), "-m", "qwen35_gguf.cli"]


if __name__ == "__main__":
    main()
