"""A stock build leaves AMX out where it would crash the process, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

import amx

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("tiles", "version", "wanted"), [(True, 12, True), (True, 13, False), (False, 12, False), (True, 1 << 30, False)]
)
def test_amx_is_left_out_where_both_come_together(
    monkeypatch: pytest.MonkeyPatch, tiles: bool, version: int, wanted: bool
) -> None:
    monkeypatch.setattr(amx, "has_amx", lambda: tiles)
    monkeypatch.setattr(amx, "gcc_version", lambda: version)
    assert bool(amx.options_without_amx()) == wanted


def test_the_processor_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("flags : avx512f amx_bf16 amx_tile amx_int8\n")
    assert amx.has_amx(file)
    file.write_text("flags : avx512f amx_tiles\n")
    assert not amx.has_amx(file)
    assert not amx.has_amx(tmp_path / "none")


@pytest.mark.parametrize(
    ("named", "printed", "version"),
    [("g++ (Debian 12.2.0-14) 12.2.0", "12", 12), ("Apple clang version 17", "4.2.1", 1 << 30), ("", "", 1 << 30)],
)
def test_the_compiler_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, printed: str, version: int
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{named}" || echo "{printed}"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert amx.gcc_version() == version
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert amx.gcc_version() == 1 << 30
