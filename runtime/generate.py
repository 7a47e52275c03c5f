"""`qwen35 run`: generate text with a GGUF, over llama-cpp-python's `Llama`, on the CPU.

It leaves out images, drafting with the MTP head, and chats of several turns.
"""

from __future__ import annotations

import codecs
import contextlib
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

from qwen35_gguf.command_errors import reports_errors
from qwen35_gguf.errors import MissingDependencyError, Qwen35Error
from qwen35_gguf.runtime.installed import STOCK_NOTE, installed_runtime

GGUF_STRING = 8
LOG_LEVEL_ERROR = 4

# Taken when the file does not say (general.sampling.*).
DEFAULT_SAMPLING = {"temp": 1.0, "top_p": 0.95, "top_k": 20, "min_p": 0.0}


@dataclass
class Speed:
    """What was evaluated and how long it took; the first generated token belongs to the prompt."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        prompt = self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0
        generation = max(self.tokens - 1, 0) / self.seconds if self.seconds else 0.0
        return (
            f"prompt: {self.prompt_tokens} tokens, {prompt:.1f} tokens/s; "
            f"generation: {self.tokens} tokens, {generation:.1f} tokens/s"
        )


def read_architecture(path: Path) -> str:
    """Read the architecture of a GGUF from its first metadata entry, without loading it.

    Raises:
        Qwen35Error: the file cannot be read, or is not a GGUF.

    """

    def string(file: IO[bytes]) -> str:
        (length,) = struct.unpack("<Q", file.read(8))
        return file.read(min(length, 256)).decode("utf-8", errors="replace")

    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise Qwen35Error(f"{path}: not a GGUF file; make one with `qwen35 convert`")
            file.seek(4 + 4 + 8 + 8)  # magic, version, number of tensors, number of metadata entries
            if string(file) != "general.architecture" or struct.unpack("<I", file.read(4)) != (GGUF_STRING,):
                return "unknown"  # allowed, though nobody writes it; loading will tell
            return string(file)
    except struct.error:
        raise Qwen35Error(f"{path}: ends inside the GGUF header; convert or download it again") from None
    except OSError as error:
        raise Qwen35Error(f"{path}: {error.strerror or error}; name a GGUF file made by `qwen35 convert`") from None


@contextlib.contextmanager
def load(path: Path, *, n_ctx: int = 2048, threads: int | None = None) -> Iterator[Any]:
    """Load a text model as a `llama_cpp.Llama`, silently, and close it afterwards.

    Raises:
        Qwen35Error: not a text model, or llama.cpp cannot load it (its reason is given).
        MissingDependencyError: llama-cpp-python is not installed.

    """
    if read_architecture(path) == "clip":
        raise Qwen35Error(f"{path}: is a vision tower (mmproj), not a text model; name the other file beside it")
    try:
        import llama_cpp
    except ImportError:
        message = "llama-cpp-python is needed to run a model; install it with pip install 'qwen35-gguf[runtime]'"
        raise MissingDependencyError(message) from None

    errors: list[str] = []

    def log(level: int, text: bytes, _: Any) -> None:
        if level == LOG_LEVEL_ERROR:
            errors.append(text.decode("utf-8", errors="replace").strip())

    callback = llama_cpp.llama_log_callback(log)
    llama_cpp.llama_log_set(callback, None)
    try:
        try:
            model = llama_cpp.Llama(str(path), n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, verbose=False)
        except (ValueError, RuntimeError) as error:
            raise Qwen35Error(f"{path}: cannot be loaded ({errors[0] if errors else error})") from None
        with contextlib.closing(model):
            yield model
    finally:
        llama_cpp.llama_log_set(llama_cpp._logger.llama_log_callback, None)  # ours dies with this frame


def chat_prompt(model: Any, text: str, *, think: bool) -> str:
    """Render the file's chat template for one user message."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = model.metadata.get("tokenizer.chat_template")
    if template is None:
        raise Qwen35Error("the file has no chat template; use --raw")
    # `Llama` passes nothing on to the template, so it is rendered here. Thinking is the template's own default.
    options: dict[str, Any] = {} if think else {"enable_thinking": False}
    eos, bos = (
        model._model.token_get_text(token) if token >= 0 else "" for token in (model.token_eos(), model.token_bos())
    )
    formatter = Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos)
    prompt: str = formatter(messages=[{"role": "user", "content": text}], **options).prompt
    return prompt


def generate(
    model: Any, prompt: str, *, max_tokens: int, temperature: float | None = None, seed: int | None = None, speed: Speed
) -> Iterator[str]:
    """Yield the text that continues `prompt`, as it comes, and fill in `speed`.

    Stops at the end of the text, after `max_tokens`, or when the context is full. `temperature` 0 is greedy. Sampling
    defaults are those of the file (`general.sampling.*`).
    """
    import llama_cpp

    tokens = model.tokenize(prompt.encode(), add_bos=True, special=True)
    room = model.n_ctx() - len(tokens)
    if room < 1:
        raise Qwen35Error(f"the prompt has {len(tokens)} tokens, the context {model.n_ctx()}; raise --ctx")
    stored = {key: model.metadata.get(f"general.sampling.{key}") for key in DEFAULT_SAMPLING}
    sampling = {key: type(usual)(stored[key] or usual) for key, usual in DEFAULT_SAMPLING.items()}
    if temperature is not None:
        sampling["temp"] = temperature
    if seed is not None:
        model.set_seed(seed)

    # A character may be split over tokens; what is none, or is cut off at the end, is left out.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    speed.prompt_tokens = len(tokens)
    start = time.perf_counter()
    for token in model.generate(tokens, **sampling):
        now = time.perf_counter()
        if not speed.tokens:
            speed.prompt_seconds, start = now - start, now
        speed.tokens, speed.seconds = speed.tokens + 1, now - start
        if llama_cpp.llama_vocab_is_eog(model._model.vocab, token):
            break
        yield decoder.decode(model.detokenize([token], special=False))
        if speed.tokens >= min(max_tokens, room):
            break


@click.command("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option("-n", "--tokens", type=click.IntRange(min=1), default=256, show_default=True, help="At most so many.")
@click.option("--temp", type=click.FloatRange(min=0), help="Temperature, 0 for greedy; by default what the file says.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the sampling; by default a new one each time.")
@click.option("--threads", type=click.IntRange(min=1), help="By default half the logical cores.")
@click.option("--ctx", type=click.IntRange(min=256), default=2048, show_default=True, help="Tokens of context.")
@click.option("--no-think", is_flag=True, help="Let the chat template skip the thinking.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without the chat template.")
@reports_errors
def command(
    file: Path,
    prompt: str,
    tokens: int,
    temp: float | None,
    seed: int | None,
    threads: int | None,
    ctx: int,
    no_think: bool,
    raw: bool,
) -> None:
    """Generate text that answers PROMPT with the GGUF FILE. The text goes to stdout, the speed to stderr."""
    speed = Speed()
    runtime = installed_runtime()
    if runtime and not runtime.patches:
        click.echo(STOCK_NOTE, err=True)
    with load(file, n_ctx=ctx, threads=threads) as model:
        if not raw:
            prompt = chat_prompt(model, prompt, think=not no_think)
        for text in generate(model, prompt, max_tokens=tokens, temperature=temp, seed=seed, speed=speed):
            click.echo(text, nl=False)
    click.echo()
    click.echo(str(speed), err=True)
