"""Run one request: evaluate the prompt, sample, and give the answer in pieces or as a whole."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qwen35_gguf.architecture.tags import END_THINK
from qwen35_gguf.runtime.chat import openai_types, thinking
from qwen35_gguf.runtime.chat.openai_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Delta,
    FinishReason,
    ParsedChatCompletion,
    Timings,
)
from qwen35_gguf.runtime.chat.output_parser import RawText, ReplyParser
from qwen35_gguf.runtime.chat.prompt import Prompt
from qwen35_gguf.runtime.chat.structured.answer_types import AnswerType
from qwen35_gguf.runtime.chat.structured.masks import TriggeredMask
from qwen35_gguf.runtime.engine.draft_depth import Depth
from qwen35_gguf.runtime.engine.sampling import Sampler, Sampling
from qwen35_gguf.runtime.engine.scheduler import JobResult
from qwen35_gguf.runtime.engine.sequence import Engine, Progress
from qwen35_gguf.runtime.engine.token_mask import TokenMask
from qwen35_gguf.runtime.llama.model import Model


@dataclass(frozen=True)
class Request:
    """A checked request.

    Attributes:
        prompt: what is evaluated.
        sampling: how tokens are chosen.
        seed: of the sampler.
        limit: tokens generated at most.
        stop: texts before which the content ends.
        depth: tokens drafted in each step.
        mask: of the content; None: it is any text.
        answer_type: how the content is read.
        thinking_budget: tokens after which the thinking is ended.
        raw: the output is text and nothing else: without thinking and tool calls.

    """

    prompt: Prompt
    sampling: Sampling
    seed: int
    limit: int
    stop: tuple[str, ...] = ()
    depth: Depth = 0
    mask: TokenMask | None = None
    answer_type: AnswerType | None = None
    thinking_budget: int | None = None
    raw: bool = False


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    message: openai_types.Message
    finish_reason: FinishReason
    timings: Timings
    reasoning_tokens: int


def answer(
    model: Model,
    engine: Engine,
    request: Request,
    on_progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
) -> Generator[Delta, None, Answer]:
    """Evaluate the prompt and sample; give the pieces, and return the whole.

    Args:
        model: of the engine.
        engine: evaluates.
        request: what is refused is refused now, and not when the first piece is read.
        on_progress: is called with the tokens of the prompt that are evaluated, and those of the whole prompt.
        check: is called after each call of llama.cpp; what it raises ends the answer.

    Raises:
        GrammarError: the mask allows nothing.
        ContextError: the prompt does not fit into the context.
        ModelError, RpcServerError: llama.cpp fails.

    """
    engine.check_prompt(request.prompt.items)
    after, lead = mask_start(model, request)
    sampler = Sampler(model, request.sampling, request.seed, request.mask, after=after, lead=lead)
    return _generate(model, engine, sampler, request, _checked(on_progress, check), check)


def _checked(on_progress: Progress | None, check: Callable[[], None]) -> Progress:
    def progress(done: int, total: int) -> None:
        check()
        if on_progress is not None:
            on_progress(done, total)

    return progress


def _generate(
    model: Model,
    engine: Engine,
    sampler: Sampler,
    request: Request,
    on_progress: Progress | None,
    check: Callable[[], None],
) -> Generator[Delta, None, Answer]:
    with sampler:
        return (yield from _pieces(model, engine, sampler, request, on_progress, check))


def _pieces(
    model: Model,
    engine: Engine,
    sampler: Sampler,
    request: Request,
    on_progress: Progress | None,
    check: Callable[[], None],
) -> Generator[Delta, None, Answer]:
    prompt = request.prompt
    parser = _parser(model, request)
    items = list(prompt.items)
    count = 0
    start = time.perf_counter()
    reused = engine.prefill(items, on_progress)
    evaluated = time.perf_counter()
    total = engine.main.n_ctx - engine.room
    reasoning = 0
    finish: FinishReason = "length"
    tokens = engine.generate(sampler, limit=request.limit, depth=request.depth)
    with contextlib.closing(tokens):
        for token in tokens:
            check()
            count += 1
            if model.ends(token):
                finish = "stop"
                break
            was_reasoning = parser.inside
            reasoning += was_reasoning
            yield from parser.feed(token, model.piece(token))
            if parser.stopped:
                finish = "stop"
                break
            if was_reasoning and not parser.inside:  # the think block ended, perhaps without a token of its own
                sampler.start()
            elif parser.inside and request.thinking_budget is not None and reasoning >= request.thinking_budget:
                following = model.tokenize(thinking.OUT_OF_BUDGET + END_THINK + thinking.AFTER)
                engine.force(following)
                count += len(following)
                for known in following:
                    yield from parser.feed(known, model.piece(known))
    yield from parser.finish(truncated=finish == "length")
    message = parser.message()
    if message.tool_calls and finish == "stop":
        finish = "tool_calls"
    seconds = time.perf_counter() - evaluated
    drafts = engine.drafts
    timings = Timings(total, reused, evaluated - start, count, seconds, drafts.drafted, drafts.accepted)
    return Answer(message, finish, timings, reasoning)


def mask_start(model: Model, request: Request) -> tuple[int | None, tuple[int, ...]]:
    """Return the token after which the mask of a request applies, None for the beginning, and what comes between.

    The token is -1 if the vocabulary has none that ends a think block: there its text does.
    """
    if not request.prompt.inside or request.mask is None:
        return None, ()
    token = next((token for token, tag in model.vocabulary.tags.items() if tag == END_THINK), -1)
    free = isinstance(request.mask, TriggeredMask)
    return token, () if free else tuple(model.tokenize(thinking.AFTER))


def _parser(model: Model, request: Request) -> RawText | ReplyParser:
    if request.raw:
        return RawText(request.stop)
    return ReplyParser(
        model.vocabulary.tags, inside=request.prompt.inside, tools=request.prompt.tools, stop=request.stop
    )


def drain(pieces: Generator[Delta, None, Answer], on_text: Callable[[str], None] | None = None) -> Answer:
    """Run to the end; `on_text` is called with the content as it comes."""
    with contextlib.closing(pieces):
        while True:
            try:
                delta = next(pieces)
            except StopIteration as end:
                whole: Answer = end.value
                return whole
            if on_text is not None and delta.content:
                on_text(delta.content)


def stops(model: Model, request: Request) -> Callable[[int], bool]:
    """Return a function that takes each token of an answer and reports whether a stop text came."""
    parser = _parser(model, request)

    def stopped(token: int) -> bool:
        for _ in parser.feed(token, model.piece(token)):
            pass
        return parser.stopped

    return stopped


def chat_completion(name: str, answers: Sequence[Answer], answer_type: AnswerType | None = None) -> ChatCompletion:
    """Give the answers to one prompt OpenAI's form; `name` is the model's."""
    choices = [openai_types.Choice(each.message, each.finish_reason, index) for index, each in enumerate(answers)]
    timings, reasoning_tokens = _sum(answers)
    usage = openai_types.usage(timings, reasoning_tokens)
    if answer_type is None:
        return ChatCompletion(name, choices, usage, timings)
    return ParsedChatCompletion(name, choices, usage, timings, answer_type=answer_type)


def _sum(answers: Sequence[Answer]) -> tuple[Timings, int]:
    """Add up what was generated; the prompt counts once, as for the first answer."""
    parts = [each.timings for each in answers]
    timings = replace(
        parts[0],
        tokens=sum(part.tokens for part in parts),
        seconds=sum(part.seconds for part in parts),
        drafted=sum(part.drafted for part in parts),
        accepted=sum(part.accepted for part in parts),
    )
    return timings, sum(each.reasoning_tokens for each in answers)


def chunks(
    name: str, answers: Sequence[Generator[Delta, None, Answer]], include_usage: bool | None = None
) -> Generator[ChatCompletionChunk, None, None]:
    """Give the pieces of the answers to one prompt, one after another, OpenAI's form.

    Args:
        name: of the model.
        answers: their pieces.
        include_usage: see `GenerateOptions`.

    """
    identity, created = openai_types.new_id(), int(time.time())
    done: list[Answer] = []
    with contextlib.ExitStack() as stack:
        for pieces in answers:
            stack.enter_context(contextlib.closing(pieces))
        for index, pieces in enumerate(answers):
            role: Literal["assistant"] | None = "assistant"  # in the first piece of each answer
            while True:
                try:
                    delta = replace(next(pieces), role=role)
                except StopIteration as end:
                    done.append(end.value)
                    break
                yield ChatCompletionChunk(name, [openai_types.ChunkChoice(delta, index=index)], identity, created)
                role = None
            last = index == len(answers) - 1
            timings, reasoning_tokens = _sum(done)
            usage = openai_types.usage(timings, reasoning_tokens)
            choice = openai_types.ChunkChoice(Delta(role=role), done[-1].finish_reason, index)
            yield ChatCompletionChunk(
                name,
                [choice],
                identity,
                created,
                usage=usage if last and include_usage is None else None,
                timings=timings if last else None,
            )
    if include_usage:
        yield ChatCompletionChunk(name, [], identity, created, usage=usage, timings=timings)


def text_chunks(
    pieces: Generator[Delta, None, Answer], on_text: Callable[[str], None] | None = None
) -> Generator[CompletionChunk, None, None]:
    """Give the pieces of a continued text; the last one has the finish reason, usage and timings."""
    with contextlib.closing(pieces):
        while True:
            try:
                delta = next(pieces)
            except StopIteration as end:
                whole: Answer = end.value
                break
            if delta.content:
                if on_text is not None:
                    on_text(delta.content)
                yield CompletionChunk(delta.content)
    yield CompletionChunk("", whole.finish_reason, whole.timings)


def completion(whole: Answer, answer_type: AnswerType | None = None) -> Completion:
    """Give the form of a continued text."""
    return Completion(whole.message.content or "", whole.finish_reason, whole.timings, answer_type)


def completion_of(model: Model, request: Request, result: JobResult) -> Completion:
    """Turn the tokens of one of several requests into a completion, without its reasoning."""
    parser = _parser(model, request)
    for token in result.tokens[:-1] if result.ended else result.tokens:
        parser.feed(token, model.piece(token))
    parser.finish(truncated=not result.ended and not parser.stopped)
    ended = result.ended or parser.stopped
    timings = Timings(len(request.prompt.items), 0, result.prompt_seconds, len(result.tokens), result.seconds)
    text = parser.message().content or ""
    return Completion(text, "stop" if ended else "length", timings, request.answer_type)
