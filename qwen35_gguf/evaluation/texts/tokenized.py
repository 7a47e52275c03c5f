"""Texts as a model reads them: tokenized with its vocabulary, chats rendered with its template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qwen35_gguf.errors import MissingDependencyError, Qwen35Error
from qwen35_gguf.evaluation.texts.packaged import Render, packaged_text, read_text
from qwen35_gguf.runtime.chat.template import ChatTemplate
from qwen35_gguf.runtime.llama.model import Model

Split = Callable[[Model], list[int]]


def splitter(path: Path | None, packaged: str) -> Split:
    """Return a function that tokenizes the text of a file; without a file, the packaged text of that name.

    Raises:
        TextError: the file cannot be read.

    """
    if path is None:
        return lambda model: model.tokenize(packaged_text(packaged, _renderer(model)))
    text = read_text(path)
    return lambda model: model.tokenize(text)


def _renderer(model: Model) -> Render | None:
    source = model.chat_template()
    if source is None:
        return None
    try:
        template = ChatTemplate(source, bos_token=model.vocabulary.bos_token, eos_token=model.vocabulary.eos_token)
        template.render([{"role": "user", "content": "?"}])
    except MissingDependencyError:
        raise
    except Qwen35Error:  # a template of another form: use the passages alone
        return None
    return lambda messages: template.render(messages, add_generation_prompt=False)
