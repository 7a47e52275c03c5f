"""Commands that take a second each, for limits that are raised step by step; {} is the folder of `inputs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles.paths import TINY
from qwen35_gguf.convert import hf_to_gguf

COSTS = ("-f", "{}/text.txt", "--chunk", "64", "--chunks", "1", "--types", "Q8_0")
MOMENTS = ("-f", "{}/text.txt", "--chunk", "64", "--chunks", "1", "--moments", "block", "--no-effects")
COMMANDS = {
    "run": ("run", "{}/model.gguf", "Hi", "-n", "4", "--no-think", "--ctx", "512", "--no-profile", "--quiet"),
    "run without drafts": ("run", "{}/model.gguf", "Hi", "-n", "4", "--draft", "0", "--no-profile", "--quiet"),
    "image": ("run", "{}/model.gguf", "Hi", "--image", "{}/image.png", "-n", "1", "--no-profile", "--quiet"),
    "convert": ("convert", str(TINY), "-q", "Q4_0", "-o", "{}/out", "--jobs", "1", "--force", "--quiet"),
    "imatrix": ("imatrix", "{}/model.gguf", "-f", "{}/text.txt", "--chunk", "64", "-o", "{}/i.gguf", "--force"),
    "states": ("run", "{}/model.gguf", "Hi", "-n", "1", "--no-think", "--state-dir", "{}/states", "--no-profile"),
    "evaluate": ("evaluate", "{}/model.gguf", "--reference", "{}/model.gguf", "-f", "{}/text.txt", "--chunk", "64"),
    "sensitivity": ("sensitivity", "{}/exact.gguf", *COSTS, "-o", "{}/costs.json"),
    "sequential": ("imatrix", "{}/exact.gguf", *MOMENTS, "--sequential", "{}/model.gguf", "-o", "{}/s.gguf", "--force"),
    "plan": ("plan", "{}/model.gguf", "--ctx", "1k"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("memory")
    for path in hf_to_gguf.convert(TINY, "Q4_0", folder):
        path.rename(folder / ("mmproj-model.gguf" if path.name.startswith("mmproj") else "model.gguf"))
    hf_to_gguf.convert(TINY, "BF16", folder, vision=False)[0].rename(folder / "exact.gguf")
    (folder / "text.txt").write_text((TINY / "evaluation.txt").read_text(encoding="utf-8")[:2000], encoding="utf-8")
    Image.new("RGB", (64, 64), "red").save(folder / "image.png")
    return folder
