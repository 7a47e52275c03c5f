"""A loaded Qwen3.5: chat, generate, and generate many, from OpenAI-style messages to OpenAI-style results."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

from qwen35_gguf.errors import BusyError, ClosedError, MemoryLimitError, MessageError, ModelError, RpcServerError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.chat import openai_types, thinking
from qwen35_gguf.runtime.chat.openai_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    Delta,
    FinishReason,
    Timings,
)
from qwen35_gguf.runtime.chat.output_parser import RawText, ReplyParser
from qwen35_gguf.runtime.chat.prompt import Prompt, called_tool, chat_prompt
from qwen35_gguf.runtime.chat.template import ChatTemplate
from qwen35_gguf.runtime.context_spec import IMAGE_PIXELS, KV_TYPES
from qwen35_gguf.runtime.engine import scheduler
from qwen35_gguf.runtime.engine.mtp import MAX_DEPTH
from qwen35_gguf.runtime.engine.prefix_cache import StateFolder, model_identity
from qwen35_gguf.runtime.engine.sampling import (
    NOT_THINKING,
    RAW,
    THINKING,
    Sampler,
    Sampling,
    choose,
    grammar_text,
    new_seed,
)
from qwen35_gguf.runtime.engine.sequence import CHECKPOINTS, Depth, Engine
from qwen35_gguf.runtime.llama.devices import Device
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.llama.rpc import say_hello
from qwen35_gguf.runtime.media.image import MediaLimits
from qwen35_gguf.runtime.media.video import VideoLimits
from qwen35_gguf.runtime.media.vision_encoder import VisionEncoder, check_mmproj
from qwen35_gguf.runtime.model_files import find_mmproj, read_model
from qwen35_gguf.runtime.planning import fitting, offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.planning.offload import Layers
from qwen35_gguf.runtime.planning.yarn import yarn_for, yarn_note
from qwen35_gguf.runtime.settings import Settings, context_spec, memory_request, model_spec
from qwen35_gguf.runtime.tuning import profiles

log = logging.getLogger(__name__)

USUAL_CONTEXT = 16384
MESSAGE_START = "<|im_start|>"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Request:
    """What an answer needs to know, checked."""

    prompt: Prompt
    settings: Sampling
    seed: int
    grammar: str | None
    opening: str  # how the content has to begin
    thinking_budget: int | None
    limit: int
    stop: tuple[str, ...]
    depth: Depth


@dataclass(frozen=True)
class _Outcome:
    """How an answer ended."""

    message: openai_types.Message
    finish_reason: FinishReason
    timings: Timings
    reasoning_tokens: int


class Qwen35(Closing):
    """A Qwen3.5 from a GGUF file. Close it, or use it in a `with`.

    Calls from several threads wait for one another.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        mmproj: str | Path | None = None,
        n_ctx: int | None = None,
        n_batch: int | None = None,
        n_threads: int | None = None,
        n_gpu_layers: Layers | None = None,
        devices: Sequence[str] = (),
        rpc: Sequence[str] = (),
        kv_type: str | None = None,
        draft: Depth | None = None,
        profile: bool = True,
        cache_bytes: int | None = None,
        state_dir: str | Path | None = None,
        media_limits: MediaLimits | None = None,
        video_limits: VideoLimits | None = None,
        check_memory: bool = True,
    ) -> None:
        """Load a model.

        What is left out is taken from the profile that `qwen35 tune` kept for this model on this hardware, if there is
        one; `tuned` has it then.

        Args:
            path: the GGUF of the text model.
            mmproj: the GGUF of the vision tower; by default one that fits is looked for beside the model as soon as
                there is something to see.
            n_ctx: tokens of context. By default 16,384; beyond 262,144 YaRN is switched on.
            n_batch: tokens of a prompt that are evaluated at once, by default 512.
            n_threads: by default one for each physical core.
            n_gpu_layers: layers on other devices, where llama.cpp was built for some; -1 for all. "auto", the default,
                places layers and tensors as `qwen35 plan` shows. What is given leaves a profile's placement aside; one
                that does not fit, as with a longer context than that of the trials, is replaced by a plan.
            devices: names of GPUs that may be used, or "cpu" for none; by default all.
            rpc: workers (host:port) whose devices may be used as well.
            kv_type: of the KV cache, f16 (the default), q8_0 and so on.
            draft: how many tokens the MTP head drafts each step: 0 to 4, or "auto" (the default), which measures what
                pays. Without an MTP head in the file nothing is drafted.
            profile: look for a profile.
            cache_bytes: for states of prompts, to evaluate only what is new; by default eight of them. 0: none.
            state_dir: a folder in which states are kept between runs.
            media_limits: what may be loaded, and how large pictures become.
            video_limits: how videos are sampled.
            check_memory: refuse to load what does not fit into the memory that is free.

        Raises:
            ModelError: the file is missing, damaged, or no text model of Qwen3.5, or llama.cpp refuses.
            VisionError: `mmproj` is missing, damaged, or that of another model.
            MemoryLimitError: it does not fit; the message says what would.
            ContextError: `n_ctx` is beyond what YaRN gives.
            MessageError: another option is malformed.
            DeviceError: a device is not there, or there is none for the layers.
            RpcServerError: a worker does not answer.
            OutputError: `state_dir` cannot be used.
            MissingDependencyError: llama-cpp-python is not installed.

        """
        self.path = Path(path)
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._stream: weakref.ref[Generator[Any, None, None]] | None = None
        self._closed = False
        self._vision: VisionEncoder | None = None
        self._mmproj = Path(mmproj) if mmproj is not None else None
        self._media_limits, self._video_limits = media_limits, video_limits
        _check_options(n_ctx, n_batch, kv_type, draft, n_gpu_layers)

        header = read_model(self.path)
        native = int(header.require_hparam("context_length"))
        self.n_ctx = min(USUAL_CONTEXT, native) if n_ctx is None else n_ctx
        self.name = str(header.value("general.name") or self.path.stem)
        has_head = bool(header.hparam("nextn_predict_layers", 0))
        if not has_head and draft not in (None, 0, "auto"):
            raise MessageError(f"draft: {self.path} has no MTP head; use 0")
        available = offload.find(devices, rpc)
        self.tuned = profiles.load(self.path, available) if profile else None
        settings = self.tuned.settings if self.tuned else Settings.default()
        if self.tuned:
            log.info("%s: %s", self.path.name, self.tuned)
        self._draft: Depth = 0 if not has_head else settings.depth if draft is None else draft
        given: dict[str, Any] = {"threads": n_threads, "threads_batch": n_threads, "n_batch": n_batch}
        given |= {"kv_type": kv_type, "gpu_layers": n_gpu_layers}
        settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
        if n_gpu_layers is not None:  # the rest of a placement was measured with other layers
            settings = replace(settings, host_feed_forward=0, split=())
        self._threads, self._n_batch, self._kv_type = settings.threads, settings.n_batch, settings.kv_type
        yarn = yarn_for(header, self.n_ctx)
        self._context_spec = context_spec(settings, self.n_ctx, yarn)
        self._settings = settings
        if self._mmproj is not None:
            check_mmproj(self._mmproj, int(header.require_hparam("embedding_length")))
        self._cache_bytes, self._folder, self._lost = cache_bytes, None, False
        if state_dir is not None:
            identity = model_identity(self.path, kv=self._kv_type, **({"yarn": yarn} if yarn else {}))
            self._folder = StateFolder(Path(state_dir), identity)
        try:
            self._place(header, settings, available, check_memory)
        except (MemoryLimitError, ModelError) as error:  # a profile's context was shorter
            planned = replace(settings, gpu_layers="auto", host_feed_forward=0, split=())
            if n_gpu_layers is not None or settings == planned:
                raise
            log.warning("%s: layers are placed as planned; as tuned they cannot be (%s)", self.path.name, error)
            self._place(header, planned, available, check_memory)

    def _place(self, header: GgufHeader, settings: Settings, devices: Sequence[Device], check_memory: bool) -> None:
        """Decide what goes where, and load it there."""
        checkpoints = CHECKPOINTS if self._cache_bytes is None else fitting.states_in(header, self._cache_bytes)
        needed = memory_request(
            settings,
            self._draft,
            n_ctx=self.n_ctx,
            cached_states=checkpoints,
            mmproj=read_header(self._mmproj) if self._mmproj else None,
            image_pixels=self._image_pixels(),
        )
        self.offload = offload.of_settings(header, settings, devices, needed, ram=available_bytes())
        self._check_memory = check_memory and self.offload.n_gpu_layers == 0
        if self._check_memory:
            fitting.check_fits(header, needed)
        if note := yarn_note(header, self.n_ctx, self._kv_type):
            log.warning("%s", note)
        self._load()

    def _load(self) -> None:
        """Load the weights and make the contexts."""
        self._model = Model(self.path, model_spec(self._settings, self.offload, mtp=self._draft != 0))
        try:
            self._metadata = self._model.metadata()
            self._template = self._compile_template()
            starts = self._model.tokenize(MESSAGE_START)
            self._engine = Engine(
                self._model,
                self._context_spec,
                draft=self._draft,
                boundary=starts[0] if len(starts) == 1 else None,
                cache_bytes=self._cache_bytes,
                folder=self._folder,
            )
        except BaseException:
            self._model.close()
            raise

    def _image_pixels(self) -> int:
        return self._media_limits.max_pixels if self._media_limits else IMAGE_PIXELS

    def _compile_template(self) -> ChatTemplate | None:
        source = self._model.chat_template()
        if source is None:
            return None
        return ChatTemplate(source, bos_token=self._model.bos_token, eos_token=self._model.eos_token)

    # ---- chat ----------------------------------------------------------------------------------------------------

    @overload
    def chat(self, messages: Any, *, stream: Literal[False] = False, **options: Any) -> ChatCompletion: ...

    @overload
    def chat(self, messages: Any, *, stream: Literal[True], **options: Any) -> Iterator[ChatCompletionChunk]: ...

    def chat(
        self,
        messages: Any,
        *,
        stream: bool = False,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        tools: Any = None,
        tool_choice: Any = None,
        response_format: Mapping[str, Any] | None = None,
        grammar: str | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        draft: Depth | None = None,
        on_progress: Progress | None = None,
        **sampling: float | None,
    ) -> ChatCompletion | Iterator[ChatCompletionChunk]:
        """Answer a conversation.

        What earlier calls evaluated is used again as far as the prompt begins with it.

        Args:
            messages: OpenAI-style: role and content, with parts of type text, image_url and video_url; tool calls and
                tool results; a `Message` of an earlier result is taken as it is.
            stream: give an iterator of chunks instead; reasoning and content come apart. Close it to stop early.
            thinking: let the model think before it answers; by default what the file's template does.
            thinking_budget: end the thinking after so many tokens.
            tools: OpenAI-style functions that it may call.
            tool_choice: "auto", "none", "required", or `{"type": "function", "function": {"name": ...}}`.
            response_format: OpenAI-style; a JSON schema is enforced, after the thinking.
            grammar: the same with llama.cpp's GBNF.
            max_tokens: generated at most, reasoning included; by default what the context holds.
            stop: a text or several before which the content ends.
            seed: repeats an answer; by default a new one each time.
            draft: as of the model; what is not loaded cannot be switched on.
            on_progress: is called with how many tokens of the prompt are done, and how many there are.
            sampling: temperature, top_p, top_k, min_p, presence_penalty, frequency_penalty, repeat_penalty; by default
                those of the file, else Qwen's for thinking and for answering at once.

        Returns:
            The completion, or its chunks.

        Raises:
            MessageError, ToolError, MediaError, VisionError, GrammarError: the request, see there.
            ContextError: the prompt does not fit into the context.
            BusyError: a stream of this thread is still open.
            RpcServerError: a worker is gone; the next call loads the model again, if all workers answer then.
            ClosedError: the model was closed.

        """
        self._check_ready()
        if self._template is None:
            raise MessageError(f"{self.path}: has no chat template; use generate")
        checked_tools = None if tool_choice == "none" else tools
        prompt = chat_prompt(
            self._model,
            self._template,
            messages,
            tools=checked_tools,
            enable_thinking=thinking,
            vision=self._tower,
            media_limits=self._media_limits,
            video_limits=self._video_limits,
        )
        opening = called_tool(tool_choice, prompt.tools) or ""
        constraint = grammar_text(response_format, grammar)
        if opening and constraint is not None:
            raise MessageError("tool_choice: cannot be forced together with a grammar; leave one of them out")
        preset = THINKING if prompt.inside else NOT_THINKING
        request = self._request(
            prompt, preset, sampling, seed, max_tokens, stop, draft, constraint, opening, thinking_budget
        )
        if not stream:
            with contextlib.closing(self._answer(request, on_progress)) as answer:
                outcome = _drain(answer)
            return self._completion(outcome)
        chunks = self._chunks(request, on_progress)
        self._stream = weakref.ref(chunks)
        return chunks

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        grammar: str | None = None,
        seed: int | None = None,
        draft: Depth | None = None,
        on_text: Callable[[str], None] | None = None,
        on_progress: Progress | None = None,
        **sampling: float | None,
    ) -> Completion:
        """Continue a text as it is, without the chat template; special tokens in it are taken as such.

        Arguments and errors are those of `chat`; `on_text` gets the text as it comes.
        """
        self._check_ready()
        request = self._request(
            self._raw_prompt(prompt), RAW, sampling, seed, max_tokens, stop, draft, grammar, "", None
        )
        with contextlib.closing(self._answer(request, on_progress, raw=True)) as answer:
            outcome = _drain(answer, on_text)
        return Completion(outcome.message.content or "", outcome.finish_reason, outcome.timings)

    def generate_many(
        self,
        prompts: Sequence[str | Sequence[Mapping[str, Any]]],
        *,
        parallel: int = 4,
        max_tokens: int = 256,
        thinking: bool | None = None,
        seed: int | None = None,
        **sampling: float | None,
    ) -> list[Completion]:
        """Answer several prompts at once, each a text to continue or the messages of a chat (without media).

        Up to `parallel` sequences share a context of their own and each step; the weights are read once for all of
        them. The answers come in the order of the prompts. Reasoning is left out of the texts.

        Raises:
            MessageError: `parallel` or another option is malformed.
            ContextError: a prompt with its answer does not fit into the context.

        """
        self._check_ready()
        if not isinstance(parallel, int) or not 1 <= parallel <= scheduler.MAX_PARALLEL:
            raise MessageError(f"parallel: {parallel!r} is not a whole number from 1 to {scheduler.MAX_PARALLEL}")
        jobs = []
        first = new_seed(seed)
        for number, prompt in enumerate(prompts):
            raw = isinstance(prompt, str)
            made = self._raw_prompt(prompt) if isinstance(prompt, str) else self._chat_prompt(prompt, thinking)
            preset = RAW if raw else THINKING if made.inside else NOT_THINKING
            request = self._request(made, preset, sampling, first + number, max_tokens, None, 0, None, "", None)
            tokens = [item for item in made.items if isinstance(item, int)]
            if len(tokens) != len(made.items):
                raise MessageError(f"prompts[{number}]: has pictures; use chat")
            jobs.append(scheduler.Job(tokens, made.inside, raw, request.settings, request.seed, request.limit))
        with self._turn():
            return scheduler.run(self._model, jobs, self._context_spec, parallel=parallel)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text."""
        self._check_open()
        return len(self._model.tokenize(text))

    # ---- requests ------------------------------------------------------------------------------------------------

    def _raw_prompt(self, text: str) -> Prompt:
        if not isinstance(text, str):
            raise MessageError("prompt: is not a text; use chat for messages")
        items = self._model.tokenize(text)
        if not items:
            raise MessageError("prompt: is empty; give some text to continue")
        return Prompt([*items])

    def _chat_prompt(self, messages: Any, thinking: bool | None) -> Prompt:
        if self._template is None:
            raise MessageError(f"{self.path}: has no chat template; give texts to continue")
        return chat_prompt(self._model, self._template, messages, enable_thinking=thinking, vision=self._tower)

    def _request(
        self,
        prompt: Prompt,
        preset: Sampling,
        sampling: Mapping[str, float | None],
        seed: int | None,
        max_tokens: int | None,
        stop: str | Sequence[str] | None,
        draft: Depth | None,
        grammar: str | None,
        opening: str,
        thinking_budget: int | None,
    ) -> _Request:
        for name, value in (("max_tokens", max_tokens), ("thinking_budget", thinking_budget)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise MessageError(f"{name}: {value!r} is not a whole number from 1")
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        if not all(isinstance(text, str) and text for text in stops):
            raise MessageError("stop: is not a text or a list of texts, none of them empty")
        depth = self._draft if draft is None else draft
        highest = MAX_DEPTH if self._draft == "auto" else self._draft
        if depth != self._draft and not (isinstance(depth, int) and 0 <= depth <= highest):
            raise MessageError(f"draft: {depth!r} is not 0 to {highest}, for which the model was loaded")
        return _Request(
            prompt,
            choose(preset, self._metadata, sampling),
            new_seed(seed),
            grammar,
            opening,
            thinking_budget,
            max_tokens if max_tokens is not None else self.n_ctx,
            stops,
            depth,
        )

    def _tower(self) -> VisionEncoder:
        """Load the vision tower when it is first needed."""
        with self._turn():
            if self._vision is None:
                mmproj = self._mmproj or find_mmproj(self.path, self._model.n_embd)
                if self._check_memory:
                    fitting.check_vision_fits(read_header(mmproj), self._image_pixels())
                self._vision = VisionEncoder(mmproj, self._model, n_threads=self._threads)
            return self._vision

    # ---- answers -------------------------------------------------------------------------------------------------

    def _chunks(self, request: _Request, on_progress: Progress | None) -> Generator[ChatCompletionChunk, None, None]:
        name, created = openai_types.new_id(), int(time.time())

        def chunk(delta: Delta, **ending: Any) -> ChatCompletionChunk:
            reason = ending.pop("finish_reason", None)
            return ChatCompletionChunk(self.name, [openai_types.ChunkChoice(delta, reason)], name, created, **ending)

        answer = self._answer(request, on_progress)
        with contextlib.closing(answer):
            while True:
                try:
                    delta = next(answer)
                except StopIteration as end:
                    outcome: _Outcome = end.value
                    break
                yield chunk(delta)
        yield chunk(
            Delta(),
            finish_reason=outcome.finish_reason,
            usage=openai_types.usage(outcome.timings, outcome.reasoning_tokens),
            timings=outcome.timings,
        )

    def _completion(self, outcome: _Outcome) -> ChatCompletion:
        choice = openai_types.Choice(outcome.message, outcome.finish_reason)
        return ChatCompletion(
            self.name, [choice], openai_types.usage(outcome.timings, outcome.reasoning_tokens), outcome.timings
        )

    def _answer(
        self, request: _Request, on_progress: Progress | None, *, raw: bool = False
    ) -> Generator[Delta, None, _Outcome]:
        """Evaluate the prompt and sample; the thread holds the model until the generator ends or is closed."""
        with self._turn(), Sampler(self._model, request.settings, request.seed, request.grammar) as sampler:
            return (yield from self._sample(request, sampler, on_progress, raw=raw))

    def _sample(
        self, request: _Request, sampler: Sampler, on_progress: Progress | None, *, raw: bool
    ) -> Generator[Delta, None, _Outcome]:
        engine, model, prompt = self._engine, self._model, request.prompt
        parser = (
            RawText(request.stop) if raw else ReplyParser(inside=prompt.inside, tools=prompt.tools, stop=request.stop)
        )
        items = list(prompt.items)
        count = 0
        if not parser.inside:
            opened = model.tokenize(request.opening) if request.opening else []
            items += opened
            for token in opened:
                yield from parser.feed(model.piece(token))
            sampler.constrain()
        start = time.perf_counter()
        reused = engine.prefill(items, on_progress)
        evaluated = time.perf_counter()
        total = engine.trunk.n_ctx - engine.room
        reasoning = 0
        finish: FinishReason = "length"
        tokens = engine.generate(sampler, limit=request.limit, depth=request.depth)
        with contextlib.closing(tokens):
            for token in tokens:
                count += 1
                if model.ends(token):
                    finish = "stop"
                    break
                thought = parser.inside
                reasoning += thought
                yield from parser.feed(model.piece(token))
                if parser.stopped:
                    finish = "stop"
                    break
                forced = ""
                if thought and not parser.inside:  # the block is over
                    forced = thinking.AFTER + request.opening if request.opening or sampler.waits else ""
                elif parser.inside and request.thinking_budget is not None and reasoning >= request.thinking_budget:
                    forced = thinking.OUT_OF_BUDGET + thinking.CLOSE + thinking.AFTER + request.opening
                if forced:
                    following = model.tokenize(forced)
                    engine.force(following)
                    count += len(following)
                    for known in following:
                        yield from parser.feed(model.piece(known))
                    sampler.constrain()
        yield from parser.finish()
        message = parser.message()
        if message.tool_calls and finish == "stop":
            finish = "tool_calls"
        timings = Timings(
            total,
            reused,
            evaluated - start,
            count,
            time.perf_counter() - evaluated,
            engine.drafts.drafted,
            engine.drafts.accepted,
        )
        return _Outcome(message, finish, timings, reasoning)

    # ---- one at a time -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other thread uses the model."""
        me = threading.get_ident()
        if self._owner == me:
            raise BusyError("model: a stream of this thread is still open; read it to its end or close it first")
        with self._lock:
            self._check_open()
            self._owner = me
            try:
                yield
            except RpcServerError:
                self._lost = True
                raise
            finally:
                self._owner = None

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.path}: the model was closed; load it again")

    def _check_ready(self) -> None:
        """Load the model again if one of its workers died."""
        self._check_open()
        if not self._lost:
            return
        with self._turn():
            if self._lost:
                for endpoint in self.offload.endpoints:
                    say_hello(endpoint)
                self._free()
                self._load()
                self._lost = False

    def _free(self) -> None:
        if self._vision is not None:
            self._vision.close()
            self._vision = None
        self._engine.close()
        self._model.close()

    def close(self) -> None:
        """Free everything, after what other threads are doing; a second call does nothing.

        An open stream of this thread is ended.
        """
        stream = self._stream() if self._stream is not None else None
        if stream is not None and self._owner == threading.get_ident():
            stream.close()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._free()


def _check_options(
    n_ctx: int | None, n_batch: int | None, kv_type: str | None, draft: Depth | None, layers: Layers | None
) -> None:
    for name, value in (("n_ctx", n_ctx), ("n_batch", n_batch)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise MessageError(f"{name}: {value!r} is not a whole number from 1")
    if kv_type is not None and kv_type not in KV_TYPES:
        raise MessageError(f"kv_type: {kv_type!r} is not one of {', '.join(KV_TYPES)}")
    if (
        layers is not None
        and layers != "auto"
        and (isinstance(layers, bool) or not isinstance(layers, int) or layers < -1)
    ):
        raise MessageError(f'n_gpu_layers: {layers!r} is not "auto", -1 or a whole number from 0')
    if draft not in (None, "auto") and (
        isinstance(draft, bool) or not isinstance(draft, int) or not 0 <= draft <= MAX_DEPTH
    ):
        raise MessageError(f'draft: {draft!r} is not "auto" or a whole number from 0 to {MAX_DEPTH}')


def _drain(answer: Generator[Delta, None, _Outcome], on_text: Callable[[str], None] | None = None) -> _Outcome:
    while True:
        try:
            delta = next(answer)
        except StopIteration as end:
            outcome: _Outcome = end.value
            return outcome
        if on_text is not None and delta.content:
            on_text(delta.content)
