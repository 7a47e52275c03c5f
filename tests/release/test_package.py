"""A release: one pass gives what single conversions give, it resumes, and can be made again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result

from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.tensor_plan import OutputTensor
from qwen35_gguf.errors import OutputError, PackageError
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.release import package
from qwen35_gguf.release import state as states
from qwen35_gguf.release.package import PackageOptions
from qwen35_gguf.release.plan import FromCheckpoint
from qwen35_gguf.release.record import read_record
from qwen35_gguf.release.verify_release import verify


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


FAST = PackageOptions(measure=False)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of what the tiny model never saw."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((TINY / "evaluation.txt").read_text(encoding="utf-8")[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def release(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "release"
    options = ["--quants", "Q4_K_M,Q8_0", "--license", "apache-2.0", "--base-model", "a/b", "-f", text]
    result = run("package", TINY, "-o", folder, *options)
    assert result.exit_code == 0, result.output
    return folder


def checksums_of_models(folder: Path) -> list[str]:
    return [line for line in (folder / "SHA256SUMS").read_text().splitlines() if line.endswith(".gguf")]


def test_one_pass_gives_what_single_conversions_give(release: Path, tmp_path: Path) -> None:
    for quant in ("Q4_K_M", "Q8_0"):
        for single in hf_to_gguf.convert(TINY, quant, tmp_path, mmproj_type="BF16", force=True):
            expected, found = gguf.GGUFReader(single), gguf.GGUFReader(release / single.name)
            assert [t.name for t in found.tensors] == [t.name for t in expected.tensors]
            for a, b in zip(expected.tensors, found.tensors, strict=True):
                np.testing.assert_array_equal(a.data, b.data, err_msg=a.name)
            new = set(found.fields) - set(expected.fields)
            assert new == {"quantize.tool", "quantize.checkpoint.sha256"}


def test_the_folder_is_complete(release: Path) -> None:
    names = {path.name for path in release.iterdir() if not path.name.startswith(".")}
    stem = "Tiny-Qwen3.5-6.4M"
    assert names == {
        f"{stem}-Q4_K_M.gguf", f"{stem}-Q8_0.gguf", f"mmproj-{stem}-BF16.gguf", "README.md", "Modelfile",
        "recipe.json", "SHA256SUMS", "size-quality.png", "size-quality.svg",
    }  # fmt: skip
    assert run("checksum", release).exit_code == 0
    for file in release.glob("*.gguf"):
        assert run("lint", file).exit_code == 0
    from huggingface_hub import ModelCard

    card = ModelCard.load(release / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.base_model_relation == "quantized"
    assert card.data.pipeline_tag == "image-text-to-text"
    row = next(line for line in card.content.splitlines() if line.startswith(f"| {stem}-Q4_K_M"))
    assert 0.0005 < float(row.split("|")[5].split()[0]) < 0.01
    assert "The chat template reads `enable_thinking`: `--template-option KEY=VALUE`" in card.content
    modelfile = (release / "Modelfile").read_text()
    assert f"FROM ./{stem}-Q4_K_M.gguf" in modelfile
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert str(TINY) not in (release / "recipe.json").read_text()


def test_a_release_is_made_again_and_compared(release: Path) -> None:
    result = run("verify-release", release, "--against", TINY)
    assert (result.exit_code, "PASS" in result.output) == (0, True), result.output


def test_a_record_of_version_0_1_is_read(release: Path, tmp_path: Path) -> None:
    content = json.loads((release / "recipe.json").read_text())
    content["options"] |= {"heads": content["options"].pop("mtp_files"), "plain": content["options"].pop("nomtp_files")}
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    assert read_record(tmp_path) == read_record(release)
    del content["options"]["quants"]
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(PackageError, match=r"options\.quants is missing; must be a list"):
        read_record(tmp_path)


def test_a_change_is_found(release: Path, tmp_path: Path) -> None:
    for path in release.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = next(tmp_path.glob("*Q8_0.gguf"))
    raw = bytearray(file.read_bytes())
    raw[-9] ^= 1
    file.write_bytes(raw)
    result = run("verify-release", tmp_path, "--against", TINY)
    assert (result.exit_code, f"{file.name}: differs" in result.output) == (1, True), result.output
    assert run("publish", tmp_path, "--repo", "a/b", "--dry-run").exit_code == 2
    assert run("checksum", tmp_path, "--write", "--force").exit_code == 0  # now the list agrees with the change
    result = run("verify-release", tmp_path, "--against", TINY)
    assert (result.exit_code, f"{file.name}: is not what this checkpoint gives" in result.output) == (1, True)
    (tmp_path / "other-Q8_0.gguf").write_bytes(raw)
    next(tmp_path.glob("mmproj*")).unlink()
    result = run("verify-release", tmp_path, "--against", TINY)
    assert "is missing" in result.output
    assert "other-Q8_0.gguf: is not part of the release" in result.output


@pytest.mark.parametrize(("cpu", "jobs"), [("portable", 1), ("avx2", 3)])
def test_the_bytes_do_not_depend_on_threads_or_instructions(release: Path, tmp_path: Path, cpu: str, jobs: int) -> None:
    command = [sys.executable, "-m", "qwen35_gguf.cli", "package", str(TINY), "-o", str(tmp_path / "again")]
    command += ["--quants", "Q4_K_M,Q8_0", "--no-measure", "--jobs", str(jobs)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"QWEN35_CPU": cpu}, timeout=300)
    assert checksums_of_models(tmp_path / "again") == checksums_of_models(release)


def test_every_tensor_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Path) -> None:
    """For all quants, with and without the MTP head, the head alone, the vision encoders and the reference."""
    read: Counter[str] = Counter()
    real = OutputTensor.blocks

    def counting(tensor: OutputTensor, checkpoint: Checkpoint) -> Iterator[Any]:
        read[tensor.name] += 1
        return real(tensor, checkpoint)

    monkeypatch.setattr(OutputTensor, "blocks", counting)
    options = FromCheckpoint(
        str(TINY), ("Q4_0", "Q8_0"), mmproj_types=("BF16", "F16"), nomtp_files=True, mtp_files=True
    )
    package.package(options, tmp_path / "release", PackageOptions(text=text))
    assert len(list((tmp_path / "release").glob("*.gguf"))) == 8
    assert set(read.values()) == {1}
    assert {"token_embd.weight", "v.post_ln.weight", "blk.8.nextn.eh_proj.weight"} <= set(read)
    figures = json.loads((tmp_path / "release" / states.STATE).read_text())["figures"]
    assert len(figures) == 4


@pytest.mark.unit
def test_an_interrupted_release_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "release"
    options = FromCheckpoint(str(TINY), ("Q4_K_M", "Q4_0"), nomtp_files=True)
    real = hf_to_gguf._quantize

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hf_to_gguf, "_quantize", stop)
    with pytest.raises(KeyboardInterrupt):
        package.package(options, folder, FAST)
    assert [path.name for path in folder.iterdir()] == []  # nothing is half there
    monkeypatch.setattr(hf_to_gguf, "_quantize", real)
    monkeypatch.setattr(package, "describe", stop)
    with pytest.raises(KeyboardInterrupt):
        package.package(options, folder, FAST)
    monkeypatch.undo()
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*.gguf")}
    assert len(done) == 5
    lost = next(folder.glob("*nomtp-Q4_0.gguf"))
    before = lost.read_bytes()
    lost.write_bytes(before[:-1])
    messages: list[str] = []
    files = package.package(options, folder, FAST, say=messages.append)
    assert "4 of 5 files are complete already" in messages
    assert all(path.stat().st_mtime_ns == when for path, when in done.items() if path != lost)
    assert lost.read_bytes() == before  # the checksum of the weights, which were not all read again, included
    assert len([path for path in files if path.suffix == ".gguf"]) == 5
    assert not any("nextn" in tensor.name for tensor in gguf.GGUFReader(lost).tensors)
    with pytest.raises(PackageError, match="begun with other options"):
        package.package(FromCheckpoint(str(TINY), ("Q6_K",)), folder, FAST)
    (folder / states.STATE).write_text("{}")
    with pytest.raises(PackageError, match="inputs is missing; must be an object; remove it"):
        package.package(options, folder, FAST)


@pytest.mark.unit
def test_a_lost_shard_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    options = FromCheckpoint(str(TINY), ("Q4_0",), max_shard_size=2_000_000)
    package.package(options, folder, FAST)
    before = checksums_of_models(folder)
    sorted(folder.glob("Tiny*.gguf"))[1].unlink()
    package.package(options, folder, FAST)
    assert checksums_of_models(folder) == before


@pytest.mark.unit
def test_large_files_are_split(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    package.package(FromCheckpoint(str(TINY), ("Q4_0",), max_shard_size=2_000_000), folder, FAST)
    parts = sorted(folder.glob("Tiny*.gguf"))
    assert len(parts) > 1
    assert all("-of-" in path.name for path in parts)
    row = next(line for line in (folder / "README.md").read_text().splitlines() if line.startswith("| Tiny"))
    assert f"-00001-of-{len(parts):05}.gguf and {len(parts) - 1} more" in row
    bits = 8 * sum(t.n_bytes for path in parts for t in gguf.GGUFReader(path).tensors)
    weights = sum(int(t.n_elements) for path in parts for t in gguf.GGUFReader(path).tensors)
    assert f" {bits / weights:.2f} " in row
    assert verify(folder, str(TINY)) == []


def test_mtp_files_are_draft_models(tmp_path: Path) -> None:
    from qwen35_gguf.runtime.llama.model import Model, ModelSpec

    folder = tmp_path / "release"
    package.package(FromCheckpoint(str(TINY), ("Q4_0",), mtp_files=True), folder, FAST)
    head, whole = next(folder.glob("mtp-*.gguf")), next(folder.glob("Tiny*.gguf"))
    expected = {t.name: t for t in gguf.GGUFReader(whole).tensors}
    names = []
    for tensor in gguf.GGUFReader(head).tensors:
        np.testing.assert_array_equal(tensor.data, expected[tensor.name].data)
        names.append(tensor.name)
    assert {name.split(".")[1] for name in names if name.startswith("blk.")} == {"8"}
    assert {"token_embd.weight", "output_norm.weight"} <= set(names)
    assert run("lint", head).exit_code == 0
    with Model(head, ModelSpec(mtp=True)) as loaded:
        assert loaded.n_vocab == 8192
    assert "| MTP head |" in (folder / "README.md").read_text()


@pytest.mark.unit
def test_what_would_break_for_its_users_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    shutil.copytree(TINY, source)
    (source / "chat_template.jinja").unlink()
    options = ["--quants", "Q4_0", "--no-measure"]
    result = run("package", source, "-o", tmp_path / "release", *options)
    assert result.exit_code == 2
    assert "would break for its users: chat template: tokenizer.chat_template: is missing" in result.stderr
    assert "--no-lint" in result.stderr
    assert not (tmp_path / "release" / "SHA256SUMS").exists()  # so that it cannot be published
    assert run("package", source, "-o", tmp_path / "release", *options, "--no-lint").exit_code == 0


# ---- of existing GGUF files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def existing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GGUF files with odd names, one of them a set of shards."""
    folder = tmp_path_factory.mktemp("existing")
    text, mmproj = hf_to_gguf.convert(TINY, "Q4_K_M", folder / "made", mmproj_type="BF16")
    (exact,) = hf_to_gguf.convert(TINY, "BF16", folder / "made", vision=False)
    shutil.copy(text, folder / "tiny.q4_k_m.gguf")
    shutil.copy(mmproj, folder / "mmproj.gguf")
    shards.split(exact, folder, 5_000_000, prefix="Tiny-exact")
    return folder


def test_existing_files_become_a_release(existing: Path, tmp_path: Path, text: Path) -> None:
    folder = tmp_path / "release"
    files = [existing / "tiny.q4_k_m.gguf", existing / "mmproj.gguf", *sorted(existing.glob("Tiny-exact-*.gguf"))]
    result = run("package", *files, "-o", folder, "-f", text, "--base-model", "a/b")
    assert result.exit_code == 0, result.output
    names = {path.name for path in folder.glob("*.gguf")}
    count = len(files) - 2
    assert names == {
        "tiny-Q4_K_M.gguf", "mmproj-tiny-BF16.gguf", *(f"tiny-BF16-{i + 1:05}-of-{count:05}.gguf" for i in range(count))
    }  # fmt: skip
    assert (folder / "tiny-Q4_K_M.gguf").read_bytes() == files[0].read_bytes()
    assert run("checksum", folder).exit_code == 0
    card = (folder / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| tiny-Q4_K_M"))
    assert 0.0005 < float(row.split("|")[5].split()[0]) < 0.01
    assert "verify-release" not in card
    assert "FROM ./tiny-Q4_K_M.gguf" in (folder / "Modelfile").read_text()
    record = json.loads((folder / "recipe.json").read_text())
    assert [one["source"][0] for one in record["files"]][:2] == ["tiny.q4_k_m.gguf", "mmproj.gguf"]
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*.gguf")}
    assert run("package", *files, "-o", folder, "-f", text, "--base-model", "a/b").exit_code == 0  # resumes
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    result = run("verify-release", folder, "--against", TINY)
    assert (result.exit_code, "was made of GGUF files" in result.stderr) == (2, True)


@pytest.mark.unit
def test_large_existing_files_are_split(existing: Path, tmp_path: Path) -> None:
    file = existing / "tiny.q4_k_m.gguf"
    result = run("package", file, "-o", tmp_path / "release", "--max-shard-size", "2MB", "--name", "Small")
    assert result.exit_code == 0, result.output
    assert "KL divergence was not measured" in result.stderr
    parts = sorted((tmp_path / "release").glob("Small-Q4_K_M-*.gguf"))
    assert len(parts) > 1
    assert shards.merge(parts[0], tmp_path / "joined.gguf").read_bytes() == file.read_bytes()


@pytest.mark.unit
def test_files_that_do_not_belong_together_are_refused(
    existing: Path, tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    file, mmproj = existing / "tiny.q4_k_m.gguf", existing / "mmproj.gguf"
    other = hf_to_gguf.convert(checkpoint(tied=False), "Q8_0", tmp_path / "other", vision=False)[0]
    twin = tmp_path / "twin.gguf"
    twin.write_bytes(file.read_bytes())
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(file.read_bytes()[:-100])
    for arguments, message in (
        ((file, other), "is of another model than"),
        ((file, twin), "leave one out"),
        ((mmproj,), "is not a text model"),
        ((file, TINY), "not both"),
        ((file, tmp_path / "none.gguf"), "none.gguf"),
        ((damaged,), "is truncated"),
        ((file, "--quants", "Q4_0"), "--quants is for a checkpoint"),
        ((file, "--mtp-files"), "--mtp-files is for a checkpoint"),
        ((file, "--plain"), "--nomtp-files is for a checkpoint"),
        ((TINY, TINY), "give one checkpoint"),
        ((TINY, "--reference", file), "--reference is for GGUF files"),
    ):
        result = run("package", *arguments, "-o", tmp_path / "release")
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert not list((tmp_path / "release").glob("*.gguf")) if (tmp_path / "release").exists() else True


@pytest.mark.unit
def test_the_folder_of_the_files_is_refused_as_the_folder_of_the_release(existing: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny-Q4_K_M.gguf"  # already has the name that it would get
    shutil.copy(existing / "tiny.q4_k_m.gguf", file)
    before = file.read_bytes()
    result = run("package", file, "-o", tmp_path)
    assert (result.exit_code, "is in the release's own folder" in result.stderr) == (2, True), result.stderr
    assert file.read_bytes() == before


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.unit
def test_bad_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    for arguments, message in (
        (("package", TINY, "-o", tmp_path), "has holiday.jpg, which does not belong there"),
        (("package", TINY, "-o", tmp_path / "a", "--quants", "Q4_K_M,q4_k_m"), "Q4_K_M is named twice"),
        (("package", TINY, "-o", tmp_path / "a", "--quants", ","), "is empty"),
        (("package", TINY, "-o", tmp_path / "a", "--quants", "Q9"), "Q9"),
        (("package", TINY, "-o", tmp_path / "a", "--recipe", "x.yaml"), "a release takes one of deltanet"),
        (("package", TINY, "-o", tmp_path / "a", "--mmproj-types", "BF16,bf16"), "BF16 is named twice"),
        (("package", TINY, "-o", tmp_path / "a", "--mmproj-types", "Q4_0"), "--mmproj-types Q4_0: unknown"),
        (("verify-release", tmp_path, "--against", TINY), "has no recipe.json"),
    ):
        result = run(*arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    from qwen35_gguf import atomic_file

    usage = type("Usage", (), {"free": 1000, "total": 1000, "used": 0})
    monkeypatch.setattr(atomic_file.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(OutputError, match=r"needs \d\.\d\d GB, but only 0\.00 GB are free"):
        package.package(FromCheckpoint(str(TINY), ("Q4_0",)), tmp_path / "full", FAST)
    assert not list((tmp_path / "full").glob("*.gguf"))
