"""What a model's tokenizer and chat template make of texts and messages, without an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qwen35_gguf.errors import MessageError, VisionError
from qwen35_gguf.runtime.chat import message_media
from qwen35_gguf.runtime.chat.prompt import chat_prompt
from qwen35_gguf.runtime.chat.template import ChatTemplate, check_messages, template_choice
from qwen35_gguf.runtime.chat.tool_calls.checks import check_tools
from qwen35_gguf.runtime.chat.volatile import without_volatile
from qwen35_gguf.runtime.engine.media_chunk import n_cells
from qwen35_gguf.runtime.field_checks import refuse
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.media.vision_encoder import VisionEncoder
from qwen35_gguf.runtime.model_files import find_mmproj
from qwen35_gguf.runtime.options import GenerateOptions, LoadOptions


class PromptTexts:
    """The tokenizer and the chat template of a loaded model."""

    def __init__(
        self, model: Model, template: ChatTemplate | None, vision: Callable[[], VisionEncoder], options: LoadOptions
    ) -> None:
        """Take the parts of a model, which must stay loaded; `vision` returns its vision encoder."""
        self._model, self._template, self._vision, self._options = model, template, vision, options

    def tokenize(self, text: Any, *, special: bool = True) -> list[int]:
        """Turn a text into token ids; with `special`, names of control tokens become these tokens.

        Raises:
            MessageError: it is not a text.

        """
        if not isinstance(text, str):
            raise refuse("text", text, "a text")
        vocabulary = self._model.vocabulary
        return vocabulary.tokenize(text) if special else vocabulary.tokenize_plain(text)

    def pieces(self, tokens: Any) -> list[bytes]:
        """Return the bytes of tokens; control tokens have the bytes of their names.

        Raises:
            MessageError: one is not a token of the vocabulary.

        """
        vocabulary = self._model.vocabulary
        if not isinstance(tokens, Sequence) or isinstance(tokens, str | bytes):
            raise refuse("tokens", tokens, "a list of token ids")
        for token in tokens:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocabulary.size:
                raise refuse("tokens", token, f"a token from 0 to {vocabulary.size - 1:,}")
        return [vocabulary.piece(token) or vocabulary.text_of(token).encode() for token in tokens]

    @property
    def chat_template(self) -> str | None:
        """The source of the file's chat template."""
        return self._model.chat_template()

    @property
    def sees_images(self) -> bool:
        """Whether there is a vision encoder: one that was named, or one that fits beside the file."""
        try:
            return bool(self._options.mmproj or find_mmproj(self._options.path, self._model.n_embd))
        except VisionError:
            return False

    def render(self, messages: Any, options: GenerateOptions) -> str:
        """Return the prompt that a chat makes of messages; errors as of `chat_prompt`."""
        reduced, _ = message_media.collect(
            check_messages(self._kept(messages)), self._options.media_limits, self._options.video_limits
        )
        return self._found_template().render(
            reduced,
            tools=check_tools(options.tools) if options.tools else None,
            **template_choice(self._options, options),
        )

    def count(self, messages: Any, options: GenerateOptions) -> int:
        """Count the tokens of the prompt that a chat makes of messages, images included; errors as of `chat_prompt`."""
        prompt = chat_prompt(
            self._model,
            self._found_template(),
            self._kept(messages),
            tools=options.tools,
            **template_choice(self._options, options),
            vision=self._vision,
            media_limits=self._options.media_limits,
            video_limits=self._options.video_limits,
        )
        return n_cells(prompt.items)

    def _kept(self, messages: Any) -> Any:
        return without_volatile(messages, self._options.ignore)

    def _found_template(self) -> ChatTemplate:
        if self._template is None:
            raise MessageError("chat template: the file has none; give texts to continue")
        return self._template
