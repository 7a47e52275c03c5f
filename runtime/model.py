"""A loaded Qwen3.5: chat, generate, and generate many, from OpenAI-style messages to OpenAI-style results."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from qwen35_gguf.errors import ClosedError, Qwen35Error
from qwen35_gguf.runtime import hub_models, loading, requests
from qwen35_gguf.runtime.calls.call import Call
from qwen35_gguf.runtime.calls.lifetime import Lifetime
from qwen35_gguf.runtime.chat import completion
from qwen35_gguf.runtime.chat.completion import Request
from qwen35_gguf.runtime.chat.openai_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
)
from qwen35_gguf.runtime.chat.prompt_texts import PromptTexts
from qwen35_gguf.runtime.chat.structured.answer_form import answer_form
from qwen35_gguf.runtime.engine.forest.reuse import CacheInfo
from qwen35_gguf.runtime.engine.job import Progress
from qwen35_gguf.runtime.engine.sampling import RAW, new_seed
from qwen35_gguf.runtime.engine.scheduler import MAX_PARALLEL
from qwen35_gguf.runtime.engine.snapshot import Snapshot
from qwen35_gguf.runtime.engine_calls import EngineCalls
from qwen35_gguf.runtime.field_checks import flag, function, optional, whole
from qwen35_gguf.runtime.llama.devices import Offload
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.rpc import say_hello
from qwen35_gguf.runtime.many_results import Results, prompts_of
from qwen35_gguf.runtime.media.vision_encoder import VisionEncoder
from qwen35_gguf.runtime.options import MANY_OPTIONS, RAW_OPTIONS, GenerateOptions, LoadOptions, with_fields_of
from qwen35_gguf.runtime.stream import Stream
from qwen35_gguf.runtime.tuning.profiles import Profile

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qwen35_gguf.runtime.chat.openai_types import ParsedChatCompletion, T
    from qwen35_gguf.runtime.options.keywords import FreeKeywords, GenerateKeywords, LoadKeywords

MANY_TOKENS = 256

log = logging.getLogger(__name__)


class Qwen35(Closing):
    """A Qwen3.5 from a GGUF file. Close it, or use it in a `with`; one that is dropped is freed, too.

    Calls from several threads run side by side, up to `parallel` of them; others wait in the order of their arrival. A
    stream runs a few pieces ahead of its reader; one that is not read gives way to calls that wait.

    Attributes:
        path: the GGUF.
        name: of the model.
        n_ctx: tokens of context.
        tuned: the profile of `qwen35 tune` that is used; None without one.

    """

    @with_fields_of(LoadOptions)
    def __init__(self, path: str | Path | LoadOptions, **keywords: Unpack[LoadKeywords]) -> None:
        """Load a model.

        What is left out is taken from the profile that `qwen35 tune` saved for this model on this hardware, if there
        is one.

        Args:
            path: the GGUF of the text model, or the name of one on the Hub, USER/NAME[@REVISION][:QUANT], which is
                downloaded; or all options in one object.
            keywords: the fields of `LoadOptions`.

        Raises:
            MessageError: an option is malformed.
            Qwen35Error: see `loading.load` and `hub_models.at_hand`.

        """
        options = hub_models.at_hand(LoadOptions.of(path, keywords), log.info)
        self._loading = threading.Lock()
        self._loaded = loading.load(options)
        self._lifetime = Lifetime(str(options.path))
        self._calls = EngineCalls(self._lifetime)
        plan = self._loaded.plan
        self.path, self.name, self.n_ctx = options.path, plan.name, plan.n_ctx
        self.tuned: Profile | None = plan.tuned

    @property
    def offload(self) -> Offload:
        """What is stored on other devices than the CPU."""
        return self._loaded.plan.offload

    # ---- requests ------------------------------------------------------------------------------------------------

    @overload
    def chat(
        self,
        messages: Any,
        *,
        response_format: type[T],
        stream: Literal[False] = False,
        on_progress: Progress | None = None,
        **keywords: Unpack[FreeKeywords],
    ) -> ParsedChatCompletion[T]: ...

    @overload
    def chat(
        self,
        messages: Any,
        options: GenerateOptions | None = None,
        *,
        stream: Literal[False] = False,
        on_progress: Progress | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> ChatCompletion: ...

    @overload
    def chat(
        self,
        messages: Any,
        options: GenerateOptions | None = None,
        *,
        stream: Literal[True],
        on_progress: Progress | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Stream[ChatCompletionChunk]: ...

    @overload
    def chat(
        self,
        messages: Any,
        options: GenerateOptions | None = None,
        *,
        stream: bool,
        on_progress: Progress | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> ChatCompletion | Stream[ChatCompletionChunk]: ...

    @with_fields_of(GenerateOptions)
    def chat(
        self,
        messages: Any,
        options: GenerateOptions | None = None,
        *,
        stream: bool = False,
        on_progress: Progress | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> ChatCompletion | Stream[ChatCompletionChunk]:
        """Answer a conversation.

        What earlier calls evaluated is reused as far as the prompt begins with it.

        Args:
            messages: OpenAI-style: role and content, with parts of type text, image_url and video_url; tool calls and
                tool results; a `Message` of an earlier result is accepted as it is.
            options: see `GenerateOptions`.
            stream: return a `Stream` of chunks, with reasoning and content apart. Close it to stop early.
            on_progress: is called with the tokens of the prompt that are evaluated, and those of the whole prompt.
            keywords: the fields of `GenerateOptions`, instead of `options`.

        Returns:
            The completion, or its chunks.

        Raises:
            MessageError, ToolError, MediaError, VisionError, GrammarError: the request is malformed, see there.
            ContextError: the prompt does not fit into the context.
            QueueFullError: more than `queue_limit` requests wait.
            BusyError: the caller is a callback of a call that is running.
            TimeLimitError: it takes longer than `timeout`.
            RpcServerError: an RPC server is gone; the next call loads the model again, if all servers answer then.
            ClosedError: the model was closed.
            ForkError: this process was forked from the one that loaded the model.

        """
        wanted = GenerateOptions.of(options, keywords)
        call = Call(wanted.timeout, streaming=flag("stream", stream))
        optional(function)("on_progress", on_progress)
        form = answer_form(wanted.response_format, wanted.grammar)
        with self._ready():
            prompt = requests.prompt_of_chat(self._loaded, messages, wanted, self._vision_encoder, "use generate")
            asked = requests.chat_requests(self._loaded, prompt, wanted, form)
            events = self._calls.begin(self._loaded, asked, call, on_progress, pieces=call.streaming)
            if call.streaming:
                chunks = completion.chunks(self.name, events, len(asked), wanted.include_usage)
                return Stream(chunks, call, self._lifetime, self)
            answers = completion.drain(events, len(asked))
            return completion.chat_completion(self.name, answers, asked[0].answer_type)

    @overload
    def generate(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        stream: Literal[False] = False,
        on_text: Callable[[str], None] | None = None,
        on_progress: Progress | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        stream: Literal[True],
        on_progress: Progress | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Stream[CompletionChunk]: ...

    @overload
    def generate(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        stream: bool,
        on_text: Callable[[str], None] | None = None,
        on_progress: Progress | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Completion | Stream[CompletionChunk]: ...

    @with_fields_of(GenerateOptions, RAW_OPTIONS)
    def generate(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        stream: bool = False,
        on_text: Callable[[str], None] | None = None,
        on_progress: Progress | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Completion | Stream[CompletionChunk]:
        """Continue a text as it is, without the chat template; special tokens in it are parsed.

        Arguments and errors are those of `chat`, without what concerns thinking and tools; `on_text` is called with the
        text as it comes.
        """
        wanted = GenerateOptions.of(options, keywords, RAW_OPTIONS)
        call = Call(wanted.timeout, streaming=flag("stream", stream))
        for name, given in (("on_text", on_text), ("on_progress", on_progress)):
            optional(function)(name, given)
        form = answer_form(wanted.response_format, wanted.grammar)
        with self._ready():
            made = requests.raw_prompt(self._loaded, prompt)
            request = requests.make_request(self._loaded, made, wanted, RAW, form=form, raw=True)
            pieces = call.streaming or on_text is not None
            events = self._calls.begin(self._loaded, [request], call, on_progress, pieces=pieces)
            guarded = None if on_text is None else self._calls.guarded(on_text)
            if call.streaming:
                return Stream(completion.text_chunks(events, guarded), call, self._lifetime, self)
            return completion.completion(completion.drain(events, 1, guarded)[0], request.answer_type)

    @overload
    def generate_many(
        self,
        prompts: Iterable[Any],
        *,
        parallel: int = 4,
        return_exceptions: Literal[False] = False,
        on_result: Callable[[int, Completion], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> list[Completion]: ...

    @overload
    def generate_many(
        self,
        prompts: Iterable[Any],
        *,
        parallel: int = 4,
        return_exceptions: bool,
        on_result: Callable[[int, Completion], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> list[Completion | Qwen35Error]: ...

    @with_fields_of(GenerateOptions, MANY_OPTIONS)
    def generate_many(
        self,
        prompts: Iterable[Any],
        *,
        parallel: int = 4,
        return_exceptions: bool = False,
        on_result: Callable[[int, Completion], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> list[Completion] | list[Completion | Qwen35Error]:
        """Answer several prompts side by side, each a text to continue or the messages of a chat.

        Up to `parallel` sequences share each step; the weights are read once for all of them. They are those of the
        model, if it was loaded with as many, else some of a context of their own. The answers come in the order of the
        prompts, without reasoning. Of the options, `max_tokens` is 256 by default; prompt i has the seed `seed` + i.

        Args:
            prompts: texts and conversations.
            parallel: sequences.
            return_exceptions: put the error of a prompt at its place, and answer the others.
            on_result: is called with the number of a prompt and its completion as soon as that is complete.
            keywords: fields of `GenerateOptions`.

        Raises:
            MessageError: `parallel` or another option is malformed.
            ContextError: a prompt with its answer does not fit into the context. The message names its number.

        """
        wanted = GenerateOptions.of(None, {"max_tokens": MANY_TOKENS, **keywords}, MANY_OPTIONS)
        parallel = whole(1, MAX_PARALLEL)("parallel", parallel)
        optional(function)("on_result", on_result)
        given = prompts_of(prompts)
        first, call = new_seed(wanted.seed), Call(wanted.timeout)
        form = answer_form(wanted.response_format, wanted.grammar)
        results = Results(len(given), flag("return_exceptions", return_exceptions), on_result)
        with self._ready():
            made: dict[int, Request] = {}
            for at, prompt in enumerate(given):
                with results.noting(at):
                    made[at] = requests.one_of_many(
                        self._loaded, prompt, wanted, form, self._vision_encoder, seed=first + at
                    )
            self._calls.answer_many(self._loaded, made, call, results, parallel)
        found: list[Completion | Qwen35Error] = results.all()
        return found

    @contextlib.contextmanager
    def texts(self) -> Iterator[PromptTexts]:
        """Give a block the tokenizer and the chat template."""
        with self._lifetime.use():
            yield requests.prompt_texts(self._loaded, self._vision_encoder)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text.

        Raises:
            MessageError: it is not a text.

        """
        with self.texts() as texts:
            return len(texts.tokenize(text))

    def cache_info(self) -> CacheInfo:
        """Return what the prefix cache holds, and how much of the last prompt was reused, and why no more."""
        with self._lifetime.use():
            return self._loaded.thread.ask(self._loaded.engine.info)

    def snapshot(self) -> Snapshot:
        """Return what the model does now and has done so far: its sequences, what waits, sums; it waits for nothing."""
        with self._lifetime.use():
            return self._loaded.engine.snapshot(self._loaded.plan.options.queue_limit)

    def warm_up(self) -> None:
        """Do now what the first prompt would wait for: read the weights, measure drafts, read states of `state_dir`."""
        with self._lifetime.use():
            self._loaded.thread.ask(self._loaded.engine.warm_up)
            _ = self._loaded.model.vocabulary.control_tokens  # looked up once

    def _vision_encoder(self) -> VisionEncoder:
        with self._loading:
            return self._loaded.vision_encoder()

    # ---- the engine ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        """Keep the model from being freed meanwhile, and load it again if one of its RPC servers is gone."""
        with self._lifetime.use():
            if self._calls.lost:
                with self._loading:
                    self._load_again()
            yield

    def _load_again(self) -> None:
        if self._calls.lost:
            for endpoint in self.offload.endpoints:
                say_hello(endpoint)
            self._loaded.close()
            self._loaded = loading.LoadedModel(self._loaded.plan)
            self._calls.lost = False

    def close(self) -> None:
        """Free everything; a second call does nothing.

        Open streams end, calls that wait raise `ClosedError`, and calls that run are waited for.
        """
        self._lifetime.close(self._end_calls, self._loaded.close)

    def _end_calls(self) -> None:
        """End streams, and calls that wait."""
        error = self._lifetime.closed_error()
        with contextlib.suppress(ClosedError):
            self._loaded.thread.ask(lambda: self._loaded.engine.end_unstarted(error))
