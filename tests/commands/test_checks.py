"""What would be found after long work is found before it: texts, vocabularies, packages, media, options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from oracles.paths import TINY
from qwen35_gguf import atomic_file
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import OutputError
from qwen35_gguf.quant import imatrix as matrices

REAL_PENDING = atomic_file.pending_file


def run(*arguments: object, **options: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)  # type: ignore[arg-type]


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
        (("--image", "i" * 300), "File name too long; check the path"),
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


def test_notes_of_the_library_name_options_and_are_quiet(folder: Path) -> None:
    arguments = ("run", folder / "model.gguf", "Hello", "-n", 2, "--no-think", "--ctx", "16k")
    assert "note: --ctx 16,384 is 4 times the native 4,096" in run(*arguments).stderr
    assert run(*arguments, "--quiet").stderr == ""


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
    monkeypatch.setattr("qwen35_gguf.commands.run.tune.Trials", lambda *_, **__: pytest.fail("it was tuned"))
    result = run("tune", folder / "model.gguf")
    assert (result.exit_code, "text.txt is not a folder" in result.stderr) == (2, True), result.output


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


def test_a_recipe_names_the_importance_matrix_that_its_costs_were_measured_with(folder: Path) -> None:
    matrix = folder / "an imatrix.gguf"
    text = ("-f", folder / "text.txt", "--chunk", 64, "--chunks", 2)
    assert run("imatrix", folder / "model.gguf", "-o", matrix, *text).exit_code == 0
    costs = ("sensitivity", folder / "exact.gguf", "-o", folder / "c.json", "--estimate", "--types", "Q4_K,Q8_0")
    assert run(*costs, "--imatrix", matrix).exit_code == 0
    result = run("recipe", folder / "c.json", "-o", folder / "r.yaml", "--target-bpw", 6)
    assert f"--recipe {folder / 'r.yaml'} --imatrix '{matrix}'" in result.stdout
    result = run("recipe", folder / "costs.json", "-o", folder / "s.yaml", "--target-bpw", 6)
    assert "--imatrix" not in result.stdout
    assert "--recipe" in result.stdout
