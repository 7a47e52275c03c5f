"""`qwen35 run` on a tiny converted checkpoint; greedy text is compared with `llama_cpp.Llama` used directly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from qwen35_gguf.commands.run import run as run_command


def run(*arguments: object, **options: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(run_command.command, [*words, "--threads", "1"], **options)  # type: ignore[arg-type]


def test_greedy_text_is_that_of_llama(files: list[Path]) -> None:
    result = run(files[0], "one two", "-n", 12, "--temp", 0, "--raw", "--ctx", 256)
    assert result.exit_code == 0, result.output
    model = llama_cpp.Llama(str(files[0]), n_ctx=256, n_threads=1, verbose=False)
    expected = model.create_completion("one two", max_tokens=12, temperature=0.0)["choices"][0]["text"]
    model.close()
    assert result.stdout == expected + "\n"


def test_an_answer_goes_to_stdout_and_figures_to_stderr(files: list[Path]) -> None:
    result = run(files[0], "one two", "-n", 5, "--no-think", "--draft", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("\n")
    assert result.stderr.startswith("prompt: ")
    assert "generation: 5 tokens" in result.stderr
    assert "drafts: " in result.stderr
    assert result.stderr.count("\n") == 1


def test_thinking_goes_to_stderr(files: list[Path]) -> None:
    result = run(files[0], "one two", "-n", 40, "--think", "--thinking-budget", 3, "--system", "Be short.")
    assert result.exit_code == 0, result.output
    assert "Considering the limited time" in result.stderr
    assert "Considering the limited time" not in result.stdout


def test_a_seed_repeats_a_text(files: list[Path]) -> None:
    texts = [run(files[0], "one", "-n", 12, "--temp", 1, "--seed", seed, "--raw").stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_prompt_from_stdin(files: list[Path]) -> None:
    given = run(files[0], "one two", "-n", 8, "--temp", 0, "--raw")
    read = run(files[0], "-", "-n", 8, "--temp", 0, "--raw", input="one two")
    assert read.stdout == given.stdout != "\n"


def test_images_are_seen(files: list[Path], tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    result = run(files[0], "What is it?", "--image", tmp_path / "a.png", "-n", 4, "--no-think")
    assert result.exit_code == 0, result.output
    plain = run(files[0], "What is it?", "-n", 4, "--no-think")
    with_image, without = (int(r.stderr.split("prompt: ")[1].split()[0]) for r in (result, plain))
    assert with_image > without + 60  # an image that small is enlarged to 64 tokens


def test_json_that_a_schema_allows(files: list[Path], tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    for mode in ("--no-think", "--think"):
        result = run(
            files[0], "Well?", "--json-schema", tmp_path / "schema.json", mode, "--thinking-budget", 4, "--seed", 1
        )
        assert result.exit_code == 0, result.output
        assert isinstance(json.loads(result.stdout)["ok"], bool)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "schema.json: is not JSON"),
        ("3", "schema.json: is not a JSON schema; give an object"),
        ('{"type": "nonsense"}', "JSON schema: type at # is 'nonsense'"),
        (None, "schema.json: cannot be read (No such file"),
    ],
)
def test_a_bad_schema_is_one_line(files: list[Path], tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "schema.json").write_text(content)
    result = run(files[0], "Well?", "--json-schema", tmp_path / "schema.json")
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("size", [10, 200, 5000, 100_000])
def test_a_truncated_file_is_one_line(files: list[Path], tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.gguf").write_bytes(files[0].read_bytes()[:size])
    result = run(tmp_path / "cut.gguf", "Hello")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / 'cut.gguf'}: ")
    assert result.stderr.count("\n") == 1


def test_a_vision_encoder_is_refused(files: list[Path], tmp_path: Path) -> None:
    shutil.copy(files[1], tmp_path / "vision.gguf")
    result = run(tmp_path / "vision.gguf", "Hello")
    assert result.exit_code == 2
    assert "is a vision encoder (mmproj)" in result.stderr


def test_a_prompt_beyond_the_context_is_refused(files: list[Path]) -> None:
    result = run(files[0], "word " * 300, "--raw", "--ctx", 256)
    assert result.exit_code == 2
    assert "do not fit into a context of 256" in result.stderr


def test_no_more_tokens_than_the_context_holds(files: list[Path]) -> None:
    result = run(files[0], "one two", "-n", 1000, "--temp", 0, "--raw", "--ctx", 256, "--draft", 0)
    assert result.exit_code == 0, result.output
    assert "prompt: 2 tokens" in result.stderr
    assert "generation: 255 tokens" in result.stderr  # the last one is not evaluated any more


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--draft", "9"], "draft: 9 is not"),
        (["--draft", "some"], "draft: 'some' is not"),
        (["--top-p", "2"], "--top-p: 2.0 is not a number from 0.0 to 1.0"),
        (["--image", "absent.png"], "absent.png: "),
        (["--image", "http://127.0.0.1:9/a.png"], "a public one, or --allow-private for your own"),
        (["--image", "file:///etc/passwd"], "file://"),
        (["--mmproj", "absent.gguf", "--image", "data:image/png;base64,AAAA"], "absent.gguf: "),
        (["--image", "data:image/png;base64,AAAA"], "data"),
        (["--raw", "--image", "a.png"], "--raw takes no --image"),
    ],
)
def test_mistakes_are_one_line(files: list[Path], arguments: list[str], words: str) -> None:
    result = run(files[0], "Hello", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr.splitlines()[-1]


def test_options_of_the_template_are_given_to_it(files: list[Path]) -> None:
    short = (files[0], "one two", "-n", 3, "--temp", 0)
    assert run(*short, "--template-option", "enable_thinking=false").stdout == run(*short, "--no-think").stdout
    refused = run(*short, "--template-option", "effort=low")
    assert refused.exit_code == 2
    assert "--template-option: the file's chat template does not read effort; it reads " in refused.stderr
    assert "has no effect with --raw" in run(*short, "--template-option", "effort=low", "--raw").stderr
