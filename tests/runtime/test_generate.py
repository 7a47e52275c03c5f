"""`qwen35 run` on a tiny converted checkpoint; greedy tokens are compared with `llama_cpp.Llama` used directly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import Qwen35Error
from qwen35_gguf.runtime import generate

llama_cpp = pytest.importorskip("llama_cpp")


@pytest.fixture(scope="module")
def files(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The text model and the vision tower of a tiny checkpoint; tied ones repeat one token, whatever the seed."""
    return hf_to_gguf.convert(checkpoint(tied=False), "F32", tmp_path_factory.mktemp("generate"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(generate.command, [str(argument) for argument in arguments])


def test_greedy_text_is_that_of_llama(files: list[Path]) -> None:
    result = run(files[0], "one two", "-n", 12, "--temp", 0, "--raw")
    assert result.exit_code == 0, result.output
    with generate.load(files[0], n_ctx=256) as model:
        expected = model.create_completion("one two", max_tokens=12, temperature=0.0)["choices"][0]["text"]
    assert result.stdout == expected + "\n"


def test_figures_are_one_line_on_stderr(files: list[Path]) -> None:
    result = run(files[0], "one two", "-n", 5, "--temp", 0, "--raw", "--threads", 1)
    assert result.stderr.startswith("prompt: ")
    assert "generation: 5 tokens" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_seed_repeats_a_text(files: list[Path]) -> None:
    texts = [run(files[0], "one", "-n", 12, "--temp", 1, "--seed", seed, "--raw").stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_chat_template_and_no_think(files: list[Path]) -> None:
    with generate.load(files[0], n_ctx=256) as model:
        prompts = [generate.chat_prompt(model, "Hello", think=think) for think in (True, False)]
    assert all("<|im_start|>user\nHello<|im_end|>" in prompt for prompt in prompts)
    assert prompts[1].endswith("<think>\n\n</think>\n\n")
    assert not prompts[0].endswith("</think>\n\n")


def test_characters_split_over_tokens_arrive_whole(files: list[Path]) -> None:
    text = "🙂 naïve"

    with generate.load(files[0], n_ctx=256) as model:
        tokens = model.tokenize(text.encode(), add_bos=False)
        model.generate = lambda *_, **__: iter(tokens)
        speed = generate.Speed()
        pieces = list(generate.generate(model, "x", max_tokens=100, speed=speed))
    assert "".join(pieces) == text
    assert speed.tokens == len(tokens) > len("naïve")


@pytest.mark.parametrize("size", [10, 200, 5000])
def test_a_truncated_file_is_one_line(files: list[Path], tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.gguf").write_bytes(files[0].read_bytes()[:size])
    result = run(tmp_path / "cut.gguf", "Hello")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / 'cut.gguf'}: ")
    assert result.stderr.count("\n") == 1


def test_a_vision_tower_is_refused(files: list[Path], tmp_path: Path) -> None:
    shutil.copy(files[1], tmp_path / "vision.gguf")
    result = run(tmp_path / "vision.gguf", "Hello")
    assert result.exit_code == 2
    assert "is a vision tower (mmproj)" in result.stderr


def test_a_prompt_beyond_the_context_is_refused(files: list[Path]) -> None:
    with generate.load(files[0], n_ctx=256) as model, pytest.raises(Qwen35Error, match=r"the context 256; raise --ctx"):
        next(generate.generate(model, "word " * 300, max_tokens=1, speed=generate.Speed()))


def test_no_more_tokens_than_the_context_holds(files: list[Path]) -> None:
    result = run(files[0], "one two", "-n", 1000, "--temp", 0, "--raw", "--ctx", 256)
    assert result.exit_code == 0, result.output
    assert "prompt: 2 tokens" in result.stderr
    assert "generation: 254 tokens" in result.stderr
