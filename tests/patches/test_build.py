"""The patch series: it applies to the published source, and what cannot work stops with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

import build
import sdist

SERIES = sorted(Path(build.HERE).glob("[0-9]*.patch"))


@pytest.mark.unit
def test_patches_are_numbered_and_say_why() -> None:
    assert [file.name[:4] for file in SERIES] == [f"{number:04}" for number in range(1, len(SERIES) + 1)]
    for file in SERIES:
        message, _, diff = file.read_text().partition("\n---\n")
        assert len(message.split("\n\n", 1)[1].split()) > 40
        assert diff.count("\ndiff --git") >= 1


@pytest.mark.slow
def test_the_series_applies_to_the_published_source(tmp_path: Path) -> None:
    sdist.unpack(sdist.fetch_sdist(), tmp_path)
    source = tmp_path / sdist.NAME
    build.patch(source, SERIES)
    assert (source / build.KERNEL_TARGET / "delta_net" / "chunkwise.h").is_file()
    assert (source / build.KERNEL_TARGET / "llama_cpp" / "kernels.cmake").is_file()
    assert not list((source / build.KERNEL_TARGET).rglob("bind.cpp"))
    for file in SERIES:
        assert file.stem in (source / "llama_cpp" / "qwen35_patches.py").read_text()


@pytest.mark.unit
def test_a_patch_that_does_not_apply_stops_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        build.patch(tmp_path / "empty", SERIES[:1])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert f"error: {SERIES[0].name} does not apply to {sdist.NAME}" in error
    assert "make runtime STOCK=1" in error


@pytest.mark.unit
def test_another_file_than_the_published_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch_another(command: list[str], problem: str) -> None:
        del problem
        Path(command[command.index("-d") + 1], f"{sdist.NAME}.tar.gz").write_bytes(b"not the source")

    monkeypatch.setenv("QWEN35_CACHE", str(tmp_path))
    monkeypatch.setattr(sdist, "run", fetch_another)
    with pytest.raises(SystemExit) as stopped:
        sdist.fetch_sdist()
    assert stopped.value.code == 1
    assert f"expected {sdist.SHA256}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_a_wheel_is_cached_by_what_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    key = build.key(SERIES, "-DGGML_NATIVE=ON")
    assert key.startswith("patched-")
    assert key == build.key(SERIES, "-DGGML_NATIVE=ON")
    assert len({key, build.key(SERIES, "-DGGML_CUDA=ON"), build.key(SERIES[:1], ""), build.key([], "")}) == 4
    monkeypatch.setattr(build, "checksum", lambda _: "changed")
    assert key != build.key(SERIES, "-DGGML_NATIVE=ON")


@pytest.mark.unit
def test_a_cache_that_cannot_be_created_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QWEN35_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(SystemExit) as stopped:
        sdist.cache_folder()
    assert stopped.value.code == 2
    assert "set QWEN35_CACHE to another directory" in capsys.readouterr().err
