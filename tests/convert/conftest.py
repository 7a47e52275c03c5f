"""The stock converter of llama.cpp as an oracle: fetched once, run in a subprocess, its outputs kept for the session.

It is published inside llama-cpp-python's sdist, and not installed by it. Only the converter and its own gguf-py are
unpacked, into $QWEN35_CACHE or ~/.cache/qwen35-gguf.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

VERSION = "0.3.36"
ROOT = f"llama_cpp_python-{VERSION}/vendor/llama.cpp"
WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")

# Runs the converter as it is, but for one thing: it recognizes a pre-tokenizer by the ids that a sample text gets,
# which says nothing about a truncated vocabulary.
WRAPPER = """
import runpy, sys
tree = sys.argv.pop(1)
sys.path[:0] = [tree, tree + "/gguf-py"]
sys.argv[0] = tree + "/convert_hf_to_gguf.py"
from conversion.base import TextModel
stock = TextModel.get_vocab_base_pre
def get_vocab_base_pre(self, tokenizer):
    try:
        return stock(self, tokenizer)
    except NotImplementedError:
        return "qwen35"
TextModel.get_vocab_base_pre = get_vocab_base_pre
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _download(folder: Path) -> Path:
    """Fetch the sdist. pip also makes its metadata, which for this package takes most of a minute."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:", "-d", str(folder)]
    done = subprocess.run([*command, f"llama-cpp-python=={VERSION}"], capture_output=True, text=True, check=False)
    found = list(folder.glob("llama_cpp_python-*.tar.gz"))
    if done.returncode or not found:
        pytest.fail(f"the stock converter cannot be fetched: {done.stderr.strip()[-500:]}")
    return found[0]


def _unpack(sdist: Path, target: Path) -> None:
    """Unpack the wanted members beside the target, then rename, so that an interrupted run leaves no half a tree."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        with tarfile.open(sdist) as archive:
            wanted = tuple(f"{ROOT}/{name}" for name in WANTED)
            archive.extractall(folder, [m for m in archive if m.name.startswith(wanted)], filter="data")
        try:
            (Path(folder) / ROOT).rename(target)
        except OSError:  # another run was faster
            if not target.is_dir():
                raise


@pytest.fixture(scope="session")
def stock_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of llama.cpp with convert_hf_to_gguf.py, conversion/ and gguf-py/."""
    cache = Path(os.environ.get("QWEN35_CACHE") or Path.home() / ".cache" / "qwen35-gguf")
    target = cache / f"llama.cpp-{VERSION}"
    if not (target / "convert_hf_to_gguf.py").is_file():
        folder = tmp_path_factory.mktemp("sdist")
        _unpack(_download(folder), target)
        shutil.rmtree(folder)
    return target


@pytest.fixture(scope="session")
def stock_convert(stock_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function (checkpoint_dir, outtype="bf16", mmproj=False) -> the GGUF that the stock converter makes of it.

    Each combination is converted once. A checkpoint without MTP is converted with --no-mtp, which it insists on.
    """
    made: dict[tuple[Path, str, bool], Path] = {}
    wrapper = tmp_path_factory.mktemp("stock") / "wrapper.py"
    wrapper.write_text(WRAPPER)

    def convert(checkpoint_dir: Path, outtype: str = "bf16", mmproj: bool = False) -> Path:
        key = (checkpoint_dir, outtype, mmproj)
        if key not in made:
            config = json.loads((checkpoint_dir / "config.json").read_text())
            config |= config.get("text_config", {})
            output = tmp_path_factory.mktemp("stock") / "stock.gguf"
            command = [sys.executable, str(wrapper), str(stock_tree), str(checkpoint_dir), "--outfile", str(output)]
            command += ["--outtype", outtype]
            command += ["--mmproj"] if mmproj else [] if config.get("mtp_num_hidden_layers") else ["--no-mtp"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            # The converter puts mmproj- in front of the name it is given.
            written = sorted(output.parent.glob("*.gguf"))
            assert done.returncode == 0, done.stderr[-3000:]
            assert len(written) == 1, done.stderr[-3000:]
            made[key] = written[0]
        return made[key]

    return convert
