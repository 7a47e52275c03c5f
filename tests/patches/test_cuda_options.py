"""Options for a CUDA build, for toolkits that have everything and for those that do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import cuda_options
import sdist

pytestmark = pytest.mark.unit

NVCC = """#!/bin/sh
case "$1" in
  --dryrun) echo '#$ TOP={root}/bin/../' >&2;;
  --version) echo 'Cuda compilation tools, release {version}, V{version}.88';;
esac
"""


def toolkit(root: Path, *, version: str = "13.0", cublas: bool = True, stub: bool = True) -> Path:
    """A folder that looks like a toolkit, with an nvcc that answers."""
    nvcc = root / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(NVCC.format(root=root, version=version))
    nvcc.chmod(0o755)
    if cublas:
        (root / "include").mkdir()
        (root / "include" / "cublas_v2.h").touch()
    if stub:
        (root / "lib64" / "stubs").mkdir(parents=True)
        (root / "lib64" / "stubs" / "libcuda.so").touch()
    return root


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No toolkit and no cache but what a test makes."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QWEN35_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda_options, "USUAL", tmp_path / "none")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    return tmp_path


def test_a_whole_toolkit_needs_nothing_else(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = toolkit(alone / "cuda")
    monkeypatch.setenv("CUDA_HOME", str(root))
    assert cuda_options.cuda_options("89") == (
        f"-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF -DCMAKE_CUDA_ARCHITECTURES=89 -DCMAKE_CUDA_COMPILER={root}/bin/nvcc"
    )
    assert "-DCMAKE_CUDA_ARCHITECTURES='86;89-real'" in cuda_options.cuda_options("86;89-real")


@pytest.mark.parametrize(
    ("version", "package"), [("13.0", "nvidia-cublas==13.0.*"), ("12.4", "nvidia-cublas-cu12==12.4.*")]
)
def test_what_a_small_toolkit_lacks_is_fetched_once(
    alone: Path, monkeypatch: pytest.MonkeyPatch, version: str, package: str
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(alone / "cuda", version=version, cublas=False, stub=False)))
    calls = []

    def install(command: list[str], problem: str) -> None:
        del problem
        calls.append(command[-1])
        inside = Path(command[command.index("--target") + 1], "nvidia", "cu")
        for file in ("include/cublas_v2.h", "lib/libcublas.so.9", "lib/libcublasLt.so.9"):
            (inside / file).parent.mkdir(parents=True, exist_ok=True)
            (inside / file).touch()

    monkeypatch.setattr(cuda_options, "run", install)
    first = cuda_options.cuda_options("native")
    assert cuda_options.cuda_options("native") == first
    assert calls == [package]
    kept = alone / "cache" / f"cublas-{version}" / "nvidia" / "cu"
    assert f"-DCUDA_cublas_LIBRARY={kept}/lib/libcublas.so.9 " in first
    assert f"-DCUDA_cublasLt_LIBRARY={kept}/lib/libcublasLt.so.9 " in first
    assert f"-DCMAKE_CUDA_FLAGS=-I{kept}/include" in first


def test_pools_are_ggmls_own_where_there_is_no_driver_to_link_with(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = toolkit(alone / "cuda", stub=False)
    monkeypatch.setenv("CUDA_HOME", str(root))
    there = cuda_options.has_driver(root)  # a machine with a driver has one
    assert ("-DGGML_CUDA_NO_VMM=ON" in cuda_options.cuda_options("86")) == (not there)


@pytest.mark.parametrize("text", ["rtx", "8", "86,89", "86; rm -rf /", "", "native;86"])
def test_what_is_not_an_architecture(alone: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert alone.is_dir()
    with pytest.raises(SystemExit) as stopped:
        cuda_options.cuda_options(text)
    assert stopped.value.code == 2
    assert f"error: --cuda {text}: is not an architecture" in capsys.readouterr().err


def test_no_toolkit_is_one_line(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not list(alone.iterdir())
    with pytest.raises(SystemExit) as stopped:
        cuda_options.cuda_options("86")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: nvcc is not found: install")


def test_an_old_toolkit_without_cublas_is_refused(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(alone / "cuda", version="11.8", cublas=False)))
    with pytest.raises(SystemExit):
        cuda_options.cuda_options("86")
    assert "CUDA 11.8 without cuBLAS" in capsys.readouterr().err
    assert sdist.cache_folder() == alone / "cache"
