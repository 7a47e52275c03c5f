"""No command loses a file: existing outputs, inputs and folders are refused before any work."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from oracles.paths import TINY
from qwen35_gguf import atomic_file
from qwen35_gguf.cli import main
from qwen35_gguf.commands.convert import convert as convert_command
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import OutputError
from qwen35_gguf.evaluation import collect_imatrix, kl_divergence, sensitivity
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.quant import imatrix as matrices
from qwen35_gguf.quant.search import solve

REAL_PENDING = atomic_file.pending_file
STEM = "Tiny-Qwen3.5-6.4M"


def run(*arguments: object, **options: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("originals")
    hf_to_gguf.convert(TINY, "Q8_0", made)[0].rename(made / "model.gguf")
    next(made.glob("mmproj*")).rename(made / "mmproj-model.gguf")
    hf_to_gguf.convert(TINY, "BF16", made, vision=False)[0].rename(made / "exact.gguf")
    shards.split(made / "model.gguf", made, 5_000_000, prefix="part")
    (made / "text.txt").write_text((TINY / "evaluation.txt").read_text(encoding="utf-8")[:3000], encoding="utf-8")
    assert run("sensitivity", made / "exact.gguf", "-o", made / "costs.json", "--estimate").exit_code == 0
    return made


@pytest.fixture
def folder(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals, tmp_path / "folder")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long fails the test."""

    def begin(*_: object, **__: object) -> None:
        pytest.fail("work began")

    for module, name in (
        (hf_to_gguf, "write_files"),
        (kl_divergence, "save_reference"),
        (kl_divergence, "evaluate"),
        (collect_imatrix, "collect"),
        (sensitivity, "measure"),
        (sensitivity, "estimate"),
        (solve, "for_bits"),
        (convert_command.hf_to_gguf, "run"),
    ):
        monkeypatch.setattr(module, name, begin)
    monkeypatch.setattr(atomic_file, "pending_file", begin)
    monkeypatch.setattr(shards, "pending_file", begin)


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
}
# And files that each reads, which OUT must not be, even with --force.
READS = {
    "merge": ("part-00001-of-00002.gguf", "part-00002-of-00002.gguf"),
    "imatrix": ("model.gguf",),
    "recipe": ("costs.json",),
    "save-logits": ("exact.gguf", "text.txt"),
    "inspect": ("model.gguf",),
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
    if name != "plot":
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
        (folder / "model.gguf", "was not made by `qwen35 sensitivity`"),
        (folder / "text.txt", "was not made by `qwen35 sensitivity`"),
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


# ---- what would be found after the work --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with another vocabulary."""
    return hf_to_gguf.convert(checkpoint(vocab=1024), "F32", tmp_path_factory.mktemp("foreign"), vision=False)[0]


@pytest.mark.usefixtures("no_work")
def test_evaluate_checks_first(folder: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ("evaluate", "--reference", folder / "exact.gguf")
    renamed = folder / "renamed.gguf"
    tokens = (folder / "model.gguf").read_bytes()
    renamed.write_bytes(tokens.replace(b"the", b"eht", 1) if b"the" in tokens[:200_000] else tokens)
    for arguments, message in (
        ((*base, foreign), "of one vocabulary"),
        ((*base, folder / "model.gguf", foreign), "of one vocabulary"),
        ((*base, renamed), "has other tokens"),
        ((*base, folder / "model.gguf", "-f", folder / "none.txt"), "none.txt: No such file"),
        ((*base, folder / "model.gguf", "-f", folder / "text.txt", "-f", folder / "none.txt"), "none.txt"),
        ((*base, folder / "mmproj-model.gguf"), "is a vision encoder"),
        ((*base, "--save-logits", folder / "x", "--plot", folder / "y"), "--plot has no effect without a MODEL"),
    ):
        result = run(*arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), (message, result.output)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    result = run(*base, folder / "model.gguf", "--plot", folder / "y")
    assert (result.exit_code, "matplotlib is needed" in result.stderr) == (2, True)


def test_options_without_effect_beside_kept_logits(folder: Path, foreign: Path) -> None:
    kept = folder / "logits"
    arguments = ("evaluate", "--reference", folder / "exact.gguf", "--save-logits", kept, "-f", folder / "text.txt")
    assert run(*arguments, "--chunk", 64, "--chunks", 1).exit_code == 0
    for option in (("-f", folder / "text.txt"), ("--chunk", 64), ("--chunks", 2), ("--save-logits", folder / "x")):
        result = run("evaluate", folder / "model.gguf", "--reference", kept, *option)
        assert (result.exit_code, f"{option[0]} has no effect with a file of logits" in result.stderr) == (2, True)
    result = run("evaluate", foreign, "--reference", kept)
    assert (result.exit_code, "of one vocabulary" in result.stderr) == (2, True)


def test_the_table_is_printed_before_the_plot_is_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen35_gguf.commands.quality import evaluate

    def failing(*_: object) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(evaluate, "draw", failing)
    arguments = ("evaluate", folder / "model.gguf", "--reference", folder / "exact.gguf", "-f", folder / "text.txt")
    small = ("--chunk", 64, "--chunks", 1, "--plot", folder / "plot")
    result = run(*arguments, *small)
    assert (result.exit_code, "mean KLD" in result.stdout) == (2, True)
    result = run(*arguments, *small, "--json")
    assert (result.exit_code, '"models"' in result.stdout) == (2, True)


@pytest.mark.usefixtures("no_work")
def test_imatrix_and_sensitivity_check_first(folder: Path) -> None:
    (folder / "lines.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    for name, message in (("blk.0.ffn_up.weight", "another shape"), ("model.layers.0", "has none of its tensors")):
        matrix = matrices.Imatrix(chunk_size=64, chunks=1)
        matrix.add(name, np.ones((1, 7)), np.ones(1, np.int64))
        _write(matrix, folder / "other.gguf")
        for arguments in (
            ("imatrix", folder / "model.gguf", "-o", folder / "new.gguf", "--merge", folder / "other.gguf"),
            ("sensitivity", folder / "exact.gguf", "-o", folder / "new.json", "--imatrix", folder / "other.gguf"),
        ):
            result = run(*arguments)
            assert (result.exit_code, message in result.stderr) == (2, True), (message, result.output)
    for verb, model, out in (("imatrix", "model.gguf", "new.gguf"), ("sensitivity", "exact.gguf", "new.json")):
        result = run(verb, folder / model, "-o", folder / out, "-f", folder / "lines.jsonl")
        assert (result.exit_code, "lines.jsonl: line 2: is an object of 'txt'" in result.stderr) == (2, True)
    result = run("sensitivity", folder / "exact.gguf", "-o", folder / "new.json", "--estimate", "--chunk", 64)
    assert (result.exit_code, "--chunk has no effect with --estimate" in result.stderr) == (2, True)


def test_both_texts_count_and_their_order(folder: Path) -> None:
    for name, words in (("a", "The capital of France is Paris. "), ("b", "One, two, three, four, five. ")):
        (folder / f"{name}.txt").write_text(words * 60)
    (folder / "c.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello there"}]}\n' * 40)
    found = set()
    for names in (("a.txt",), ("b.txt",), ("a.txt", "b.txt"), ("b.txt", "a.txt"), ("a.txt", "c.jsonl")):
        out = folder / "matrix.gguf"
        texts = [word for name in names for word in ("-f", folder / name)]
        result = run("imatrix", folder / "model.gguf", "-o", out, *texts, "--chunk", 64, "--force", "--json")
        assert result.exit_code == 0, result.output
        assert " + ".join(names) in result.stdout
        found.add(out.read_bytes())
    assert len(found) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "none.png"), "none.png: No such file; name the file of the image"),
        (("--image", "."), ".: is a folder"),
        (("--video", "none.mp4"), "none.mp4: No such file"),
        (("--image", "{}/text.txt", "--mmproj", "none.gguf"), "none.gguf"),
        (("--raw", "--think"), "--think has no effect with --raw"),
        (("--raw", "--thinking-budget", "5"), "--thinking-budget has no effect with --raw"),
        (("--fps", "1"), "--fps has no effect without --video"),
        (("--max-pixels", "1M"), "--max-pixels has no effect without --image or --video"),
        (("--json-schema", "{}/text.txt", "--grammar", "{}/text.txt"), "--grammar has no effect with --json-schema"),
        (("--ctx", "100"), "'--ctx': 100 is not a length from 256"),
        (("--ctx", "many"), "'--ctx': 'many' is not a length; write it as 4096, 32k or 1M"),
    ],
)
def test_run_checks_before_it_loads(
    folder: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen35_gguf.commands.options.Qwen35", lambda *_: pytest.fail("it was loaded"))
    result = run("run", folder / "model.gguf", "Hello", *(word.replace("{}", str(folder)) for word in arguments))
    assert (result.exit_code, message in result.stderr) == (2, True), result.output


def test_options_that_change_nothing_are_noted(folder: Path) -> None:
    options = ("-n", 2, "--ctx", "1k", "--no-think", "--thinking-budget", "1k", "--temp", 0, "--top-p", "0.5")
    result = run("run", folder / "model.gguf", "Hello", *options)
    assert result.exit_code == 0, result.output
    assert "note: --thinking-budget: no effect with --no-think" in result.stderr
    assert "note: --top-p: no effect with --temp 0" in result.stderr


@pytest.mark.parametrize("package", ["PIL", "av"])
def test_missing_packages_are_found_first(folder: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen35_gguf.commands import media_sources

    monkeypatch.setattr(media_sources.importlib.util, "find_spec", lambda _: None)
    option = "--image" if package == "PIL" else "--video"
    result = run("run", folder / "model.gguf", "Hello", option, folder / "text.txt")
    assert (result.exit_code, f"{package} is needed for" in result.stderr) == (2, True), result.output


def test_chat_refuses_a_missing_image_when_it_is_typed(folder: Path) -> None:
    result = run("chat", folder / "model.gguf", "--ctx", "1k", input="/image none.png\n/think 1k\n/quit\n")
    assert result.exit_code == 0
    assert "Error: none.png: No such file" in result.stderr
    assert "at most 1,024 tokens" in result.stderr


def test_tune_checks_the_folder_of_its_profile_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN35_CACHE", str(folder / "text.txt"))
    began = time.monotonic()
    result = run("tune", folder / "model.gguf")
    assert (result.exit_code, "text.txt is not a folder" in result.stderr) == (2, True), result.output
    assert time.monotonic() - began < 60


def test_verify_and_package_check_first(folder: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen35_gguf.release import measure, package

    monkeypatch.setattr(package, "write_files", lambda *_, **__: pytest.fail("work began"))
    (folder / "short.txt").write_text("short")
    make = ("package", TINY, "-o", folder / "release", "--quants", "Q4_0")
    for arguments, message in (
        ((*make, "-f", folder / "none.txt"), "none.txt: No such file"),
        ((*make, "-f", folder / "short.txt"), "less than a chunk of 512"),
        ((*make, "-f", folder / "a.csv"), "is a table"),
        ((*make, "-f", folder / "text.txt", "--no-measure"), "-f has no effect with --no-measure"),
        (("package", folder / "model.gguf", "-o", folder / "release", "--reference", foreign), "of one vocabulary"),
    ):
        result = run(*arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), (message, result.output)
        assert not list((folder / "release").glob("*")) if (folder / "release").exists() else True
    monkeypatch.setattr(measure, "installed_runtime", lambda: None)
    result = run(*make)
    assert (result.exit_code, "llama-cpp-python is needed to measure" in result.stderr) == (2, True)
    monkeypatch.setattr("qwen35_gguf.evaluation.parity.oracle_installed", lambda: False)
    monkeypatch.setattr("qwen35_gguf.convert.verify.verify", lambda *_: pytest.fail("work began"))
    result = run("verify", folder / "model.gguf", "--against", TINY, "--parity")
    assert (result.exit_code, "transformers and torch are needed" in result.stderr) == (2, True), result.output


def _write(matrix: matrices.Imatrix, path: Path) -> None:
    """Write a matrix although nothing may be written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic_file, "pending_file", REAL_PENDING)
        matrices.write(matrix, path)


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
