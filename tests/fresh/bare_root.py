"""Install, convert, run and serve in a bare root file system without a network: from wheels, or from a clone.

sudo python tests/fresh/bare_root.py wheel [--dist dist] [--work .cache/fresh]
sudo python tests/fresh/bare_root.py clone [--work .cache/fresh]

`wheel`: Debian with Python and nothing else, no compiler, cmake or git; it gets the wheels of `make wheels` and those
of the packages that they need. `clone`: the same with a compiler, git and make; it gets a clone of this checkout's
commit and the sources that a build fetches. debootstrap makes the file system, from the mirror that apt uses; it is
kept. The steps are in steps.sh; each ends with a line that says how long it took.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"  # has Python 3.11
PACKAGES = {"wheel": "python3,python3-venv", "clone": "python3,python3-venv,python3-dev,g++,git,make,ca-certificates"}
BUILD = ("scikit-build-core[pyproject]>=0.11", "nanobind>=2.9", "cmake", "ninja", "pip", "setuptools", "wheel")


def main() -> None:
    """Make the file system, copy what it gets into it, and run the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=PACKAGES)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="what `make wheels` wrote")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "fresh", help="for file systems and downloads")
    parser.add_argument("--python", default="python3.11", help="of this machine: of the same version as the bare one")
    parser.add_argument("--mirror", help="of Debian; without it the one that apt uses")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("error: debootstrap and chroot need root: sudo python tests/fresh/bare_root.py ...")
    for program in ("debootstrap", "unshare", "git"):
        if not shutil.which(program):
            sys.exit(f"error: {program} is not installed; install it: apt-get install {program}")
    root = bare_root(options.work.resolve(), options.kind, options.mirror)
    given = root / "srv"
    shutil.rmtree(given, ignore_errors=True)
    given.mkdir()
    wheels = options.work.resolve() / f"packages-{options.kind}"
    if options.kind == "wheel":
        download(options.python, wheels, ["qwen35-gguf[server]"], options.dist)
        shutil.copytree(options.dist, given / "dist")
        shutil.copytree(ROOT / "examples" / "tiny-qwen3.5", given / "demo")
    else:
        shutil.rmtree(wheels, ignore_errors=True)
        download(options.python, wheels, [*BUILD, *needed_by_the_clone()])
        sys.path.insert(0, str(ROOT / "patches"))
        from sdist import fetch_sdist

        shutil.copy(fetch_sdist(), wheels)
        subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", str(given / "clone")], check=True)
    shutil.copytree(wheels, given / "packages")
    shutil.copy(Path(__file__).with_name("steps.sh"), given)
    shutil.copy(Path(__file__).with_name("ask.py"), given)
    inside = ["chroot", str(root), "/bin/sh", "/srv/steps.sh", options.kind]
    alone = ["unshare", "--net", "--pid", "--fork", f"--mount-proc={root / 'proc'}"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    (root / "proc").mkdir(exist_ok=True)
    sys.exit(subprocess.run([*alone, *inside], env=environment, check=False).returncode)


def bare_root(work: Path, kind: str, named: str | None) -> Path:
    """Return the file system, made if absent."""
    folder = work / f"root-{kind}"
    if not (folder / "usr" / "bin" / "python3").exists():
        work.mkdir(parents=True, exist_ok=True)
        command = [
            "debootstrap",
            "--variant=minbase",
            f"--include={PACKAGES[kind]}",
            SUITE,
            str(folder),
            named or mirror(),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def mirror() -> str:
    """Return the first mirror in apt's sources."""
    for file in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if found := re.search(r"^(?:URIs: *|deb (?:\[.*\] )?)(\S+/debian)/?(?:\s|$)", text, re.MULTILINE):
            return found[1]
    sys.exit("error: apt has no mirror of Debian; add one to /etc/apt/sources.list")


def download(python: str, folder: Path, names: list[str], dist: Path | None = None) -> None:
    """Fetch the wheels of packages and of what they need, without those in `dist`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [python, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(folder)]
    subprocess.run([*command, *(["--find-links", str(dist)] if dist else []), *names], check=True)
    for file in dist.iterdir() if dist else ():
        (folder / file.name).unlink(missing_ok=True)


def needed_by_the_clone() -> list[str]:
    """List what the extras that `make` installs need, without llama-cpp-python, which is compiled."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found: list[str] = []
    for name in ("dependencies", "llama-cpp", "http", "vision", "examples"):
        table = re.search(rf"^{name} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
        found += re.findall(r'"([^"]+)"', table[1]) if table else []
    return [name for name in found if not name.startswith(("llama-cpp-python", "qwen35-"))] + ["diskcache>=5.6.1"]


if __name__ == "__main__":
    main()
