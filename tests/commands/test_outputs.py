"""No command loses a file: existing outputs, inputs and folders are refused before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from oracles.paths import TINY
from qwen35_gguf import atomic_file
from qwen35_gguf.cli import main
from qwen35_gguf.errors import OutputError

STEM = "Tiny-Qwen3.5-6.4M"


def run(*arguments: object, **options: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)  # type: ignore[arg-type]


# Commands that write the file OUT; {} is the folder of inputs.
WRITES: dict[str, tuple[str, ...]] = {
    "merge": ("merge", "{}/part-00001-of-00002.gguf", "-o", "OUT"),
    "metadata set": ("metadata", "{}/model.gguf", "set", "general.name", "Other", "-o", "OUT"),
    "metadata unset": ("metadata", "{}/model.gguf", "unset", "general.name", "-o", "OUT"),
    "imatrix": ("imatrix", "{}/model.gguf", "-o", "OUT"),
    "recipe": ("recipe", "{}/costs.json", "-o", "OUT", "--target-bpw", "5"),
    "save-logits": ("evaluate", "--reference", "{}/exact.gguf", "--save-logits", "OUT", "-f", "{}/text.txt"),
    "plot": ("evaluate", "{}/model.gguf", "--reference", "{}/exact.gguf", "--plot", "OUT.svg", "-f", "{}/text.txt"),
    "inspect": ("inspect", "{}/model.gguf", "--svg", "OUT"),
    "convert-adapter": ("convert-adapter", "{}/adapter", "--base", "{}/model.gguf", "-o", "OUT"),
}
# And files that each reads, which OUT must not be, even with --force.
READS = {
    "merge": ("part-00001-of-00002.gguf", "part-00002-of-00002.gguf"),
    "imatrix": ("model.gguf",),
    "recipe": ("costs.json",),
    "save-logits": ("exact.gguf", "text.txt"),
    "inspect": ("model.gguf",),
    "convert-adapter": ("model.gguf", "adapter/adapter_model.safetensors"),
}


def command(name: str, folder: Path, out: Path) -> list[str]:
    return [word.replace("{}", str(folder)).replace("OUT", str(out)) for word in WRITES[name]]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_an_existing_file_is_refused_before_any_work(name: str, kind: str, folder: Path) -> None:
    out = folder / "out"
    real = out.with_suffix(".svg") if name == "plot" else out
    if kind == "file":
        real.write_text("mine")
    else:
        if kind == "link":
            (folder / "elsewhere").write_text("mine")
        real.symlink_to(folder / "elsewhere")
    result = run(*command(name, folder, out))
    assert (result.exit_code, "exists already" in result.stderr) == (2, True), result.output
    assert "--force" in result.stderr
    assert result.stderr.count("\n") == 1
    assert real.is_symlink() == (kind != "file")
    assert kind == "dangling link" or real.read_text() == "mine"


@pytest.mark.parametrize("name", WRITES)
def test_with_force_it_is_replaced_and_what_a_link_leads_to_is_not(name: str, folder: Path) -> None:
    out = folder / "out"
    real = out.with_suffix(".svg") if name == "plot" else out
    (folder / "elsewhere").write_text("mine")
    real.symlink_to(folder / "elsewhere")
    small = ["--chunk", "64", "--chunks", "1"] if name in ("imatrix", "save-logits", "plot") else []
    result = run(*command(name, folder, out), "--force", *small)
    assert result.exit_code == 0, result.output
    assert not real.is_symlink()
    assert real.stat().st_size > 100
    assert (folder / "elsewhere").read_text() == "mine"


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("name", "read"), [(name, read) for name, reads in READS.items() for read in reads])
@pytest.mark.parametrize("linked", [False, True])
def test_an_output_that_is_read_as_well_is_refused(name: str, read: str, linked: bool, folder: Path) -> None:
    out = folder / "link" if linked else folder / read
    if linked:
        out.symlink_to(folder / read)
    before = (folder / read).read_bytes()
    result = run(*command(name, folder, out), "--force")
    assert result.exit_code == 2, result.output
    assert "is read as well" in result.stderr or "is one of the shards" in result.stderr
    assert (folder / read).read_bytes() == before


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", WRITES)
def test_a_folder_in_its_place_and_a_file_as_its_folder_are_refused(name: str, folder: Path) -> None:
    if name not in ("plot", "convert-adapter"):  # the one adds an ending, the other a name in the folder
        result = run(*command(name, folder, folder), "--force")
        assert (result.exit_code, "is a folder" in result.stderr) == (2, True), result.output
    result = run(*command(name, folder, folder / "text.txt" / "x" / "out"))
    assert (result.exit_code, "text.txt is not a folder" in result.stderr) == (2, True), result.output


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", WRITES)
def test_a_folder_that_cannot_be_written_to_is_refused(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic_file.tempfile, "TemporaryFile", denied)
    result = run(*command(name, folder, folder / "new" / "out"))
    assert (result.exit_code, "cannot be written (Permission denied)" in result.stderr) == (2, True), result.output
    assert not (folder / "new").exists()


@pytest.mark.usefixtures("no_work")
def test_conversions(folder: Path) -> None:
    (folder / "file").write_text("mine")
    matrix = folder / f"{STEM}-Q4_0.gguf"
    matrix.write_text("mine")
    for arguments, message in (
        (("convert", TINY, "-q", "Q4_0", "-o", folder), "exists already"),
        (("convert", "nobody/nothing", "-o", folder / "file"), "is not a folder"),  # before a download
        (("convert", TINY, "-o", folder / "file" / "x"), "is not a folder"),
        (("split", folder / "model.gguf", "-o", folder / "file"), "is not a folder"),
        (("convert", TINY, "--no-vision", "--mmproj-type", "F16"), "--mmproj-type has no effect with --no-vision"),
        (("convert", TINY, "--verbose"), "--verbose has no effect without --dry-run"),
        (("convert", TINY, "--dry-run", "--force"), "--force has no effect with --dry-run"),
    ):
        result = run(*arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), (message, result.output)
    assert matrix.read_text() == "mine"


def test_an_importance_matrix_is_not_overwritten_by_the_file_that_it_makes(folder: Path) -> None:
    matrix = folder / f"{STEM}-Q4_0.gguf"
    arguments = ("imatrix", folder / "model.gguf", "-o", matrix, "-f", folder / "text.txt", "--chunk", 64)
    assert run(*arguments).exit_code == 0
    before = matrix.read_bytes()
    result = run("convert", TINY, "-q", "Q4_0", "-o", folder, "--no-vision", "--imatrix", matrix, "--force")
    assert (result.exit_code, "is read as well" in result.stderr) == (2, True), result.output
    assert matrix.read_bytes() == before


def test_shards_and_their_source(folder: Path) -> None:
    name = folder / "part-00001-of-00002.gguf"
    shutil.copy(folder / "model.gguf", folder / "whole.gguf")
    name.unlink()
    name.symlink_to(folder / "whole.gguf")
    result = run("split", folder / "whole.gguf", "-o", folder, "--max-shard-size", "5MB")
    assert result.exit_code == 0
    (folder / "whole-00001-of-00002.gguf").unlink()
    (folder / "whole-00001-of-00002.gguf").symlink_to(folder / "whole.gguf")
    result = run("split", folder / "whole.gguf", "-o", folder, "--max-shard-size", "5MB", "--force")
    assert (result.exit_code, "is read as well" in result.stderr) == (2, True), result.output


@pytest.mark.usefixtures("no_work")
def test_costs_are_completed_and_nothing_else_is(folder: Path) -> None:
    for out, message in (
        (folder / "model.gguf", "made by `qwen35 sensitivity`"),
        (folder / "text.txt", "made by `qwen35 sensitivity`"),
        (folder / "exact.gguf", "is read as well"),
    ):
        before = out.read_bytes()
        result = run("sensitivity", folder / "exact.gguf", "-o", out)
        assert (result.exit_code, message in result.stderr) == (2, True), result.output
        assert out.read_bytes() == before


def test_a_device_is_written_to_directly() -> None:
    atomic_file.check_output(Path("/dev/null"))
    with pytest.raises(OutputError, match="is a folder"):
        atomic_file.check_output(Path("/dev"))


@pytest.mark.parametrize(
    "key",
    ["qwen35.block_count", "qwen35.embedding_length", "qwen35.ssm.inner_size", "qwen35.rope.freq_base",
     "qwen35.full_attention_interval", "qwen35.nextn_predict_layers", "general.architecture", "tokenizer.ggml.tokens",
     "tokenizer.ggml.pre"],
)  # fmt: skip
def test_keys_that_describe_the_tensors_need_force(folder: Path, key: str) -> None:
    file = folder / "model.gguf"
    before = file.read_bytes()
    value = run("metadata", file, "get", key).stdout
    for change in (("set", key, value), ("unset", key)):
        result = run("metadata", file, *change)
        assert (result.exit_code, "describes the tensors or the vocabulary; use --force" in result.stderr) == (2, True)
        assert file.read_bytes() == before
    assert run("metadata", file, "set", key, value, "--force").exit_code == 0


def test_other_keys_need_no_force(folder: Path) -> None:
    file = folder / "model.gguf"
    for key, value in (("general.name", "A"), ("qwen35.context_length", "8192"), ("tokenizer.chat_template", "x")):
        assert run("metadata", file, "set", key, value).exit_code == 0
