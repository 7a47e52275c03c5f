"""The Python API with its types, which `mypy --strict` checks: python examples/typed_app.py MODEL.gguf."""

from __future__ import annotations

import sys
from pathlib import Path

from qwen35_gguf import ChatCompletion, ChatCompletionChunk, GenerateOptions, LoadOptions, Qwen35, Stream

MESSAGES = [{"role": "user", "content": "Name three colours."}]


def answer(model: Qwen35) -> str:
    """Return an answer as a whole."""
    completion: ChatCompletion = model.chat(MESSAGES, thinking=False, max_tokens=20, seed=1)
    return completion.text


def print_answer(model: Qwen35) -> int:
    """Print an answer as it comes, and return its tokens."""
    stream: Stream[ChatCompletionChunk] = model.chat(MESSAGES, stream=True, thinking=False, max_tokens=20)
    tokens = 0
    with stream:
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
            tokens = chunk.usage.completion_tokens if chunk.usage is not None else tokens
    print()
    return tokens


def either(model: Qwen35, stream: bool) -> str:
    """Answer as a whole or in pieces."""
    found = model.chat(MESSAGES, GenerateOptions(max_tokens=5, thinking=False), stream=stream)
    if isinstance(found, ChatCompletion):
        return found.text
    return "".join(chunk.choices[0].delta.content or "" for chunk in found)


def main(path: str) -> None:
    """Load a model and use it."""
    with Qwen35(LoadOptions(Path(path), n_ctx=2048)) as model:
        print(answer(model), print_answer(model), either(model, False), either(model, True))
        print([each.text for each in model.generate_many(["One:", "Two:"], max_tokens=4)], model.cache_info().n_bytes)


if __name__ == "__main__":
    main(sys.argv[1])
