"""Texts as a model reads them: tokenized with its vocabulary, chats rendered with its template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from qwen35_gguf.errors import MessageError, MissingDependencyError, Qwen35Error, TextError
from qwen35_gguf.evaluation.texts.files import Chat, join, read_passages
from qwen35_gguf.evaluation.texts.packaged import Render, packaged_text
from qwen35_gguf.runtime.chat.template import ChatTemplate
from qwen35_gguf.runtime.llama.model import Model

Split = Callable[[Model], list[int]]


def splitter(paths: Path | Sequence[Path] | None, packaged: str) -> Split:
    """Return a function that tokenizes the texts of files, in order; without a file, the packaged text of that name.

    The files are read now; conversations are rendered with the template of the model that tokenizes.

    Raises:
        TextError: a file cannot be read, or a line of it is malformed.

    """
    files = [paths] if isinstance(paths, Path) else list(paths or ())
    if not files:
        return lambda model: model.tokenize(packaged_text(packaged, _renderer(model)))
    passages = [passage for file in files for passage in read_passages(file)]
    return lambda model: model.tokenize(join(list(_rendered(passages, model))))


def _rendered(passages: Sequence[str | Chat], model: Model) -> Iterator[str]:
    """Yield the text of each passage.

    Raises:
        TextError: the model has no template for a conversation, or the template refuses it.

    """
    template = None
    for passage in passages:
        if isinstance(passage, str):
            yield passage
            continue
        template = template or _template(model)
        if template is None:
            raise TextError(f"{passage.where}: has messages, but the model has no chat template; name a text")
        try:
            yield template.render(passage.messages, tools=passage.tools, add_generation_prompt=False)
        except MessageError as error:
            raise TextError(f"{passage.where}: {error}") from None


def _template(model: Model) -> ChatTemplate | None:
    source = model.chat_template()
    if source is None:
        return None
    return ChatTemplate(source, bos_token=model.vocabulary.bos_token, eos_token=model.vocabulary.eos_token)


def _renderer(model: Model) -> Render | None:
    try:
        template = _template(model)
        if template is None:
            return None
        template.render([{"role": "user", "content": "?"}])
    except MissingDependencyError:
        raise
    except Qwen35Error:  # a template of another form: use the passages alone
        return None
    return lambda messages: template.render(messages, add_generation_prompt=False)
