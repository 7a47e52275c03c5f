"""Variables of the environment with odd values: one line and exit code 2, or as without them; no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oracles.paths import ROOT, TINY
from qwen35_gguf.convert import hf_to_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_to_gguf.convert(TINY, "Q8_0", tmp_path_factory.mktemp("model"), vision=False)[0]


def called(variables: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "qwen35_gguf", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path} | variables,
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"HF_ENDPOINT": "http://[::x"},
        {"HF_ENDPOINT": "nowhere"},
        {"HF_HUB_DOWNLOAD_TIMEOUT": "x"},
        {"HF_HUB_ETAG_TIMEOUT": "1.5"},
        {"HF_TOKEN": "a\nb", "HF_ENDPOINT": "http://127.0.0.1:1"},
        {"HTTPS_PROXY": "socks9://x"},
        {"HF_HOME": os.devnull, "HF_ENDPOINT": "http://127.0.0.1:1"},
    ],
    ids=str,
)
@pytest.mark.parametrize("command", [("run", "user/name:Q4_0", "Hi"), ("convert", "user/name")], ids=lambda c: c[0])
def test_variables_of_the_hub(variables: dict[str, str], command: tuple[str, ...]) -> None:
    done = called(variables, *command)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF"])
def test_a_place_without_llama_cpp(model: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        for name in ("libllama.so", "libllama.dylib", "llama.dll"):
            (tmp_path / name).write_bytes(content)
    done = called({"LLAMA_CPP_LIB_PATH": str(tmp_path)}, "run", model, "Hi")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: llama.cpp cannot be loaded (")
    assert line.endswith("; unset LLAMA_CPP_LIB_PATH")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero")
@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", TINY, "--recipe", "/dev/zero", "-o", "{}"),
        ("convert", TINY, "--imatrix", "/dev/zero", "-o", "{}"),
        ("convert", TINY, "--moments", "/dev/zero", "--rounding", "block", "-o", "{}"),
        ("metadata", "{model}", "set", "general.name", "/dev/zero", "--file"),
        ("plan", "/dev/zero", "--ctx", "1k"),
        ("run", "{model}", "Hi", "--lora", "/dev/zero"),
        ("run", "{model}", "Hi", "--grammar", "/dev/zero"),
    ],
    ids=lambda a: f"{a[0]} {a[2]}",
)
def test_a_device_without_end_in_place_of_a_file(model: Path, tmp_path: Path, arguments: tuple[object, ...]) -> None:
    given = [str(one).format(tmp_path, model=model) for one in arguments]
    done = called({}, *given)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: /dev/zero: ")
    assert "out of memory" not in done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"HOME": "/nowhere", "XDG_CACHE_HOME": "relative"},
        {"QWEN35_CACHE": os.devnull},
        {"TMPDIR": "/nowhere", "TEMP": "/nowhere"},
        {"LC_ALL": "xx_YY"},
        {"COLUMNS": "x", "LINES": "-1", "TERM": ""},
        {"PYTHONOPTIMIZE": "2"},
    ],
    ids=str,
)
def test_what_does_not_matter(model: Path, variables: dict[str, str]) -> None:
    done = called(variables, "run", model, "Hi", "-n", "4", "--no-think", "--ctx", "256")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
