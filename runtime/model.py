"""A loaded Qwen3.5: chat, generate, and generate many, from OpenAI-style messages to OpenAI-style results."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from qwen35_gguf.errors import MessageError, ModelError, Qwen35Error, RpcServerError
from qwen35_gguf.runtime import loading
from qwen35_gguf.runtime.chat import completion
from qwen35_gguf.runtime.chat.completion import Answer, Request
from qwen35_gguf.runtime.chat.openai_types import ChatCompletion, ChatCompletionChunk, Completion, Delta
from qwen35_gguf.runtime.chat.prompt import Prompt, chat_prompt
from qwen35_gguf.runtime.chat.structured.answer_form import AnswerForm, CallForm, answer_form, answer_mask, call_form
from qwen35_gguf.runtime.engine import scheduler
from qwen35_gguf.runtime.engine.draft_depth import Depth, depth_limit
from qwen35_gguf.runtime.engine.reuse import CacheInfo
from qwen35_gguf.runtime.engine.sampling import NOT_THINKING, RAW, THINKING, Sampling, choose, new_seed
from qwen35_gguf.runtime.engine.sequence import Progress
from qwen35_gguf.runtime.field_checks import flag, function, optional, refuse, whole
from qwen35_gguf.runtime.llama.devices import Offload
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.rpc import say_hello
from qwen35_gguf.runtime.media.vision_encoder import VisionEncoder
from qwen35_gguf.runtime.options import MANY_OPTIONS, RAW_OPTIONS, GenerateOptions, LoadOptions, with_fields_of
from qwen35_gguf.runtime.stream import Stream
from qwen35_gguf.runtime.tuning.profiles import Profile
from qwen35_gguf.runtime.turns import Call, Turns

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qwen35_gguf.runtime.options import GenerateKeywords, LoadKeywords

log = logging.getLogger(__name__)

MANY_TOKENS = 256


class Qwen35(Closing):
    """A Qwen3.5 from a GGUF file. Close it, or use it in a `with`; one that is dropped is freed, too.

    Calls from several threads wait for one another, in the order of their arrival. While a stream is open, other calls
    may run between two of its reads: from the thread that reads it without delay, from others when it was not read for
    half a second.

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
            path: the GGUF of the text model; or all options in one object.
            keywords: the fields of `LoadOptions`.

        Raises:
            MessageError: an option is malformed.
            Qwen35Error: see `loading.load`.

        """
        options = LoadOptions.of(path, keywords)
        self._lost = False
        self._encoder_lock = threading.Lock()
        self._loaded = loading.load(options)
        self.turns = Turns(str(options.path))
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
            BusyError: the caller is a callback of a call that is running.
            TimeLimitError: it takes longer than `timeout`.
            RpcServerError: an RPC server is gone; the next call loads the model again, if all servers answer then.
            ClosedError: the model was closed.
            ForkError: this process was forked from the one that loaded the model.

        """
        wanted = GenerateOptions.of(options, keywords)
        call = Call.within(wanted.timeout, streaming=flag("stream", stream))
        optional(function)("on_progress", on_progress)
        form = answer_form(wanted.response_format, wanted.grammar)
        with self._ready():
            prompt = self._chat_prompt(messages, wanted, "use generate")
            calls = call_form(prompt.tools, wanted.tool_choice, wanted.parallel_tool_calls)
            request = self._request(prompt, wanted, _preset(prompt), form=form, calls=calls)
            pieces = self._answer(request, call, on_progress)
            if stream:
                return Stream(completion.chunks(self.name, pieces), call, self.turns, self._turn)
            with self._turn(call):
                return completion.chat_completion(self.name, completion.drain(pieces), request.answer_type)

    @with_fields_of(GenerateOptions, RAW_OPTIONS)
    def generate(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        on_text: Callable[[str], None] | None = None,
        on_progress: Progress | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Completion:
        """Continue a text as it is, without the chat template; special tokens in it are parsed.

        Arguments and errors are those of `chat`, without what concerns thinking and tools; `on_text` is called with the
        text as it comes.
        """
        wanted = GenerateOptions.of(options, keywords, RAW_OPTIONS)
        call = Call.within(wanted.timeout)
        for name, given in (("on_text", on_text), ("on_progress", on_progress)):
            optional(function)(name, given)
        form = answer_form(wanted.response_format, wanted.grammar)
        with self._ready():
            request = self._request(self._raw_prompt(prompt), wanted, RAW, form=form, raw=True)
            pieces = self._answer(request, call, on_progress)
            with self._turn(call):
                return completion.completion(completion.drain(pieces, on_text), request.answer_type)

    @with_fields_of(GenerateOptions, MANY_OPTIONS)
    def generate_many(
        self,
        prompts: Iterable[str | Any],
        *,
        parallel: int = 4,
        **keywords: Unpack[GenerateKeywords],
    ) -> list[Completion]:
        """Answer several prompts side by side, each a text to continue or the messages of a chat (without media).

        Up to `parallel` sequences share a context of their own and each step; the weights are read once for all of
        them. The answers come in the order of the prompts, without reasoning. Options are max_tokens (256 by default),
        thinking, seed, and those of sampling.

        Raises:
            MessageError: `parallel` or another option is malformed.
            ContextError: a prompt with its answer does not fit into the context.

        """
        wanted = GenerateOptions.of(None, {"max_tokens": MANY_TOKENS, **keywords}, MANY_OPTIONS)
        parallel = whole(1, scheduler.MAX_PARALLEL)("parallel", parallel)
        if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
            raise refuse("prompts", prompts, "a list of texts and conversations; give [prompt] for one")
        first, call = new_seed(wanted.seed), Call.within(wanted.timeout)
        form = answer_form(wanted.response_format, wanted.grammar)
        with self._ready():
            made = [self._job(at, prompt, wanted, first + at, form) for at, prompt in enumerate(prompts)]
            jobs = [job for _, job in made]
            with self._turn(call, engine=False):
                model, spec = self._loaded.model, self._loaded.context_spec
                check = self._checker(call)
                results = scheduler.run(model, jobs, spec, parallel=parallel, check=check)
                pairs = zip(made, results, strict=True)
                return [completion.completion_of(model, request, result) for (request, _), result in pairs]

    def _job(
        self, number: int, prompt: Any, wanted: GenerateOptions, seed: int, form: AnswerForm | None
    ) -> tuple[Request, scheduler.Job]:
        raw = isinstance(prompt, str)
        made = self._raw_prompt(prompt) if isinstance(prompt, str) else self._chat_prompt(prompt, wanted)
        preset = RAW if raw else _preset(made)
        request = self._request(made, wanted, preset, seed=seed, depth=0, raw=raw, form=form)
        tokens = [item for item in made.items if isinstance(item, int)]
        if len(tokens) != len(made.items):
            raise MessageError(f"prompts[{number}]: has images; use chat")
        start = completion.mask_start(self._loaded.model, request)
        return request, scheduler.Job(tokens, request.sampling, request.seed, request.limit, request.mask, *start)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text.

        Raises:
            MessageError: it is not a text.

        """
        if not isinstance(text, str):
            raise refuse("text", text, "a text")
        with self.turns.use():
            return len(self._loaded.model.tokenize(text))

    def cache_info(self) -> CacheInfo:
        """Return what the prefix cache holds, and how much of the last prompt was reused, and why no more."""
        with self.turns.use(), self._turn(Call(), engine=False):
            return self._loaded.engine.info()

    def _raw_prompt(self, text: str) -> Prompt:
        if not isinstance(text, str):
            raise refuse("prompt", text, "a text; use chat for messages")
        items = self._loaded.model.tokenize(text)
        if not items:
            raise MessageError("prompt: is empty; give some text to continue")
        return Prompt([*items])

    def _chat_prompt(self, messages: Any, options: GenerateOptions, instead: str = "give texts to continue") -> Prompt:
        loaded = self._loaded
        if loaded.template is None:
            raise MessageError(f"{self.path}: has no chat template; {instead}")
        return chat_prompt(
            loaded.model,
            loaded.template,
            messages,
            tools=None if options.tool_choice == "none" else options.tools,
            enable_thinking=options.thinking,
            vision=self._vision_encoder,
            media_limits=loaded.plan.options.media_limits,
            video_limits=loaded.plan.options.video_limits,
        )

    def _vision_encoder(self) -> VisionEncoder:
        with self._encoder_lock:
            return self._loaded.vision_encoder()

    def _request(
        self,
        prompt: Prompt,
        options: GenerateOptions,
        preset: Sampling,
        *,
        seed: int | None = None,
        depth: Depth | None = None,
        form: AnswerForm | None = None,
        calls: CallForm | None = None,
        raw: bool = False,
    ) -> Request:
        loaded_depth = self._loaded.plan.draft
        depth = options.draft if depth is None else depth
        depth = loaded_depth if depth is None else depth
        highest = depth_limit(loaded_depth)
        if depth != loaded_depth and not (isinstance(depth, int) and 0 <= depth <= highest):
            raise MessageError(f"draft: {depth!r} is not 0 to {highest}, for which the model was loaded")
        return Request(
            prompt=prompt,
            sampling=choose(preset, self._loaded.metadata, options.sampling),
            seed=new_seed(options.seed) if seed is None else seed,
            limit=self.n_ctx if options.max_tokens is None else options.max_tokens,
            stop=options.stop,
            depth=depth,
            mask=answer_mask(self._loaded.grammars, form, calls),
            answer_type=form.type if form is not None else None,
            thinking_budget=options.thinking_budget,
            raw=raw,
        )

    def _answer(self, request: Request, call: Call, on_progress: Progress | None) -> Generator[Delta, None, Answer]:
        """Make the generator of an answer, which runs in turns of the call; what is wrong is refused now."""
        loaded = self._loaded
        return completion.answer(loaded.model, loaded.engine, request, on_progress, self._checker(call))

    # ---- one at a time -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        """Keep the model from being freed meanwhile, and load it again if one of its RPC servers is gone."""
        with self.turns.use():
            if self._lost:
                with self.turns.turn(Call()):
                    self._load_again()
            yield

    @contextlib.contextmanager
    def _turn(self, call: Call, *, engine: bool = True) -> Iterator[None]:
        """Wait until it is the call's turn, and let the engine hold its sequence."""
        with self.turns.turn(call, engine=engine) as other:
            if engine:
                self._switch(call, other)
            with self._noting_loss():
                yield

    @contextlib.contextmanager
    def _noting_loss(self) -> Iterator[None]:
        try:
            yield
        except RpcServerError:
            self._lost = True
            raise

    def _checker(self, call: Call) -> Callable[[], None]:
        turns = self.turns
        return lambda: turns.check(call)

    def _switch(self, call: Call, other: Call | None) -> None:
        """Let the engine hold the sequence of a call, and not that of another one; a stream's is kept for later.

        Raises:
            ModelError: it was lost, or cannot be restored.

        """
        if other is call:
            return
        engine = self._loaded.engine
        if other is not None and other.streaming and other.started:
            try:
                other.saved = engine.suspend()
            except Qwen35Error as error:
                log.warning("a stream cannot continue: %s", error)
        if call.saved is not None:
            saved, call.saved = call.saved, None
            engine.resume(saved)
        elif call.started:
            raise ModelError("stream: what the model had computed for it is lost; ask again")
        call.started = True

    def _load_again(self) -> None:
        if self._lost:
            for endpoint in self.offload.endpoints:
                say_hello(endpoint)
            self._loaded.close()
            self._loaded = loading.LoadedModel(self._loaded.plan)
            self.turns.forget()
            self._lost = False

    def close(self) -> None:
        """Free everything; a second call does nothing.

        Open streams end, calls that wait raise `ClosedError`, and calls that run are waited for.
        """
        self.turns.close(self._loaded.close)


def _preset(prompt: Prompt) -> Sampling:
    return THINKING if prompt.inside else NOT_THINKING
