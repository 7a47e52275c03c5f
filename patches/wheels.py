"""Write into a folder what `pip install --no-index --find-links FOLDER 'qwen35-gguf[runtime]'` takes from us.

python patches/wheels.py [--dist dist] [--machine aarch64] [--glibc 2.28] [--system windows] [--only engine|package]

On Linux, zig from the package index compiles for old C libraries (patches/zig.py), so that the wheels run on every
system since then; auditwheel checks that. It compiles the engine for Windows, too; for the package's extension the
libraries of Windows' Python would be needed. Elsewhere the compiler of the system is used. The package's extension is
built once for each Python before 3.12 that is here (`python3.10`, `python3.11`), and once for all others. The sources
of both distributions, and the checksums of everything, are written, too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from build import series_id
from engine_source import PACKAGE, ROOT, engine_version, write_package, write_source
from sdist import cache_folder, fail, run
from zig import GLIBC, LINUX, WINDOWS, Target, environment, search_path

ENGINE, OURS = "engine", "package"
FIRST_STABLE = (3, 12)  # from which nanobind supports the stable ABI
SUMS = "SHA256SUMS"


def main() -> None:
    """Build what is asked for; print a line for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where to write")
    parser.add_argument("--machine", default=platform.machine(), help="of the processor, on Linux: x86_64 or aarch64")
    parser.add_argument("--glibc", default=GLIBC, help="the oldest C library, on Linux")
    parser.add_argument("--system", choices=(LINUX, WINDOWS), help="another one, from Linux; the engine only")
    parser.add_argument("--only", choices=(ENGINE, OURS), help="one of the two distributions")
    options = parser.parse_args()
    options.dist.mkdir(parents=True, exist_ok=True)
    if options.system and sys.platform != "linux":
        fail("--system: zig compiles for other systems on Linux only; leave it out to build for this one")
    if options.system == WINDOWS and options.only == OURS:
        fail("--only package: cannot be compiled for Windows here; build it on Windows (.github/workflows/wheels.yml)")
    target = Target(options.machine, options.glibc, options.system or LINUX) if sys.platform == "linux" else None
    if options.only != OURS:
        build_engine(options.dist, target)
    if options.only != ENGINE and options.system != WINDOWS:
        build_package(options.dist, target)
    for line in write_sums(options.dist):
        print(line)


def build_engine(dist: Path, target: Target | None) -> None:
    """Write the source of qwen35-engine and a wheel for every Python 3."""
    name = f"{PACKAGE}-{engine_version()}"
    folder = cache_folder() / "engine" / series_id()  # objects are kept, so that the next time takes seconds
    source = folder / name
    if source.is_dir():
        write_package(source)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            write_source(Path(scratch)).rename(source)
    run([sys.executable, "-m", "build", "--sdist", "--outdir", str(dist), str(source)], "no source can be made")
    print(f"compiling {name} (series {series_id()}): this takes many minutes, once", file=sys.stderr)
    objects = folder / f"build-{target.platform_tag if target else sys.platform}"
    _wheel(sys.executable, source, dist, target, objects)


def build_package(dist: Path, target: Target | None) -> None:
    """Write the source of qwen35-gguf and its wheels."""
    run([sys.executable, "-m", "build", "--sdist", "--outdir", str(dist), str(ROOT)], "no source can be made")
    for python in _pythons(foreign=target is not None and target.is_foreign):
        _wheel(python, ROOT, dist, target)


def _pythons(*, foreign: bool) -> Iterator[str]:
    """Yield each Python before 3.12 that is here, and one of the others.

    What is built for one version has the processor in the name of its extension, which the Python of another processor
    does not tell: for those there is only the one that serves all later versions.
    """
    seen = set()
    for name in (sys.executable, "python3.10", "python3.11", "python3.12", "python3.13", "python3.14"):
        done = subprocess.run(
            [name, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        ) if shutil.which(name) else None  # fmt: skip
        if done is None or done.returncode:
            continue
        version = tuple(map(int, done.stdout.split()))
        if (kind := min(version, FIRST_STABLE)) not in seen and not (foreign and kind < FIRST_STABLE):
            seen.add(kind)
            yield name
    if missing := [version for version in ((3, 10), (3, 11), FIRST_STABLE) if version not in seen]:
        names = ", ".join(f"{major}.{minor}" for major, minor in missing)
        print(f"not built, because this Python is not here or the processor is another: {names}", file=sys.stderr)


def _wheel(python: str, source: Path, dist: Path, target: Target | None, objects: Path | None = None) -> None:
    """Build a wheel with that Python; on Linux, write it with the tag that auditwheel finds to be true."""
    with tempfile.TemporaryDirectory(dir=dist) as scratch:
        command = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", scratch, str(source)]
        command += ["--config-settings", f"build-dir={objects}"] if objects else []
        env = environment(target) if target else dict(os.environ)
        run(command, f"{source.name} cannot be compiled", env=env)
        wheel = next(Path(scratch).glob("*.whl"))
        if target is None or target.system == WINDOWS:
            shutil.move(wheel, dist / wheel.name)
            return
        audit = [sys.executable, "-m", "auditwheel"]
        # It knows the tags of this machine's processor only by name, those of others by looking at the wheel.
        tag = "auto" if target.is_foreign else target.platform_tag
        repair = [*audit, "repair", "--plat", tag, "--wheel-dir", str(dist), str(wheel)]
        run(repair, "auditwheel", env=dict(os.environ) | {"PATH": search_path()})  # it looks for patchelf
        pattern = f"{wheel.name.split('-linux_')[0]}-*{target.machine}.whl"
        repaired = max(dist.glob(pattern), key=lambda path: path.stat().st_mtime)
        done = subprocess.run([*audit, "show", str(repaired)], capture_output=True, text=True, check=False)
        verdict = re.search(r'following\s+platform\s+tag:\s+"(\S+?)"', done.stdout)
        if verdict is None:
            fail(f"{repaired.name}: auditwheel gives no verdict: {done.stdout}", 1)
        print(f"{repaired.name}: auditwheel says {verdict[1]}", file=sys.stderr)


def write_sums(dist: Path) -> Iterator[str]:
    """Write the checksums of what is in the folder; yield a line with the size of each file."""
    files = sorted(file for file in dist.iterdir() if file.name.endswith((".whl", ".tar.gz")))
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (dist / SUMS).write_text("".join(sums), encoding="utf-8")
    for file in files:
        yield f"{file.stat().st_size / 1e6:7.1f} MB  {file.name}"


if __name__ == "__main__":
    main()
