"""Make a request a job of the engine, and its tokens an answer: in pieces, and as a whole."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qwen35_gguf.architecture.tags import END_THINK
from qwen35_gguf.runtime.chat import loop_detector, openai_types, thinking
from qwen35_gguf.runtime.chat.loop_detector import LoopDetector
from qwen35_gguf.runtime.chat.miss import describe_miss
from qwen35_gguf.runtime.chat.openai_types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChoiceLogprobs,
    Completion,
    CompletionChunk,
    Delta,
    FinishReason,
    ParsedChatCompletion,
    Timings,
    TokenLogprob,
    TopLogprob,
)
from qwen35_gguf.runtime.chat.output_parser import RawText, ReplyParser
from qwen35_gguf.runtime.chat.prompt import Prompt
from qwen35_gguf.runtime.chat.structured.answer_types import AnswerType
from qwen35_gguf.runtime.chat.structured.masks import TriggeredMask
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.job import Job, Outcome
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk
from qwen35_gguf.runtime.engine.sampling import Chosen, Sampler, Sampling
from qwen35_gguf.runtime.engine.token_mask import TokenMask
from qwen35_gguf.runtime.llama.model import Model

log = logging.getLogger(__name__)


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
        stop_loops: end thinking, and answers, that go round in circles.
        ahead: evaluate what the next prompt of the conversation begins with, when nothing else is to be done.
        top_logprobs: number of tokens whose probabilities are given at each place of the content; None: not asked for.
        scope: what is known of other prompts is reused only if they are of the same one.

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
    top_logprobs: int | None = None
    stop_loops: bool = False
    ahead: bool = False
    scope: str | None = None


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    message: openai_types.Message
    finish_reason: FinishReason
    timings: Timings
    reasoning_tokens: int
    logprobs: ChoiceLogprobs | None = None
    stop_text: str | None = None  # before which it ended


@dataclass(frozen=True)
class Evaluated:
    """How many tokens of a prompt are evaluated, of how many."""

    done: int
    total: int


Event = Delta | TokenLogprob | Evaluated | Answer | Exception
Events = Iterator[tuple[int, Event]]  # of several answers by their numbers


def make_job(
    model: Model,
    request: Request,
    put: Callable[[Event], None],
    *,
    pieces: bool = True,
    progress: bool = False,
    wants: Callable[[], bool] = lambda: True,
    yields: Callable[[], bool] = lambda: True,
    streams: bool = False,
) -> Job:
    """Make a request a job of the engine.

    Args:
        model: of the engine.
        request: see there.
        put: is called with each event, the last of which is the whole answer, or the error that ended it.
        pieces: give the pieces of the answer, too.
        progress: report how much of the prompt is evaluated.
        wants: see `Job`.
        yields: see `Job`.
        streams: see `Job`.

    Raises:
        GrammarError: the mask cannot be used.

    """
    after, lead = mask_start(model, request)
    top = request.top_logprobs
    sampler = Sampler(model, request.sampling, request.seed, request.mask, after=after, lead=lead, top_logprobs=top)
    writer = _Writer(model, request, sampler, put if pieces else lambda _: None)

    def done(outcome: Outcome | Exception) -> None:
        try:
            put(outcome if isinstance(outcome, Exception) else writer.answer(outcome))
        except Exception as error:
            put(error)

    def report(evaluated: int, total: int) -> None:
        put(Evaluated(evaluated, total))

    return Job(
        request.prompt.items,
        sampler,
        request.limit,
        writer.take,
        done,
        report if progress else lambda *_: None,
        wants,
        yields,
        streams,
        request.depth,
        writer.follow if request.ahead and request.prompt.follow is not None else None,
        request.scope,
    )


class _Writer:
    """Makes an answer of tokens."""

    def __init__(self, model: Model, request: Request, sampler: Sampler, put: Callable[[Event], None]) -> None:
        self._model, self._request, self._sampler, self._put = model, request, sampler, put
        self._parser = _parser(model, request)
        self._count = self._reasoning = 0
        self._finish: FinishReason = "length"
        self._logprobs: list[TokenLogprob] = []
        self._loop: Literal["", "thinking", "answer"] = ""
        self._detector = LoopDetector(loop_detector.THINKING if self._parser.inside else loop_detector.ANSWER)

    def take(self, token: int) -> Sequence[int] | None:
        """Take a token; see `Job`."""
        model, parser = self._model, self._parser
        self._count += 1
        if model.ends(token):
            self._finish = "stop"
            return None
        was_reasoning = parser.inside
        self._reasoning += was_reasoning
        if self._request.top_logprobs is not None and not was_reasoning:
            self._logprobs.append(token_logprob(model, token, self._sampler.last))
            self._put(self._logprobs[-1])
        self._feed(token)
        if parser.stopped:
            self._finish = "stop"
            return None
        if was_reasoning and not parser.inside:  # the think block ended, perhaps without a token of its own
            self._sampler.start()
            self._detector = LoopDetector(loop_detector.ANSWER)
            return ()
        if self._request.stop_loops and self._detector.add(token):
            self._loop = "thinking" if parser.inside else "answer"
        if self._loop == "answer":
            self._finish = "loop"
            return None
        budget = self._request.thinking_budget
        if not parser.inside or (self._loop != "thinking" and (budget is None or self._reasoning < budget)):
            return ()
        self._detector = LoopDetector(loop_detector.ANSWER)
        following = model.tokenize(thinking.OUT_OF_BUDGET + END_THINK + thinking.AFTER)
        self._count += len(following)
        for known in following:
            self._feed(known)
        return following

    def _feed(self, token: int) -> None:
        for delta in self._parser.feed(token, self._model.piece(token)):
            self._put(delta)

    def follow(self) -> Sequence[int | MediaChunk] | None:
        """Return what the next prompt begins with; a tool's result comes before another question."""
        follow, message = self._request.prompt.follow, self._parser.message()
        return None if follow is None or message.tool_calls else follow(message)

    def answer(self, outcome: Outcome) -> Answer:
        """Give the rest, and return the whole."""
        for delta in self._parser.finish(truncated=self._finish in ("length", "loop")):
            self._put(delta)
        message = self._parser.message()
        if message.tool_calls and self._finish == "stop":
            self._finish = "tool_calls"
        drafts, reuse = outcome.drafts, outcome.reuse
        miss = describe_miss(self._model, self._request.prompt.items, reuse) if reuse is not None else ""
        if miss:
            log.info("%s", miss)
        timings = Timings(
            outcome.prompt_cells,
            outcome.reused_cells,
            outcome.prompt_seconds,
            self._count,
            outcome.seconds,
            drafts.drafted,
            drafts.accepted,
            miss,
            self._loop,
        )
        logprobs = None if self._request.top_logprobs is None else ChoiceLogprobs(self._logprobs)
        return Answer(message, self._finish, timings, self._reasoning, logprobs, self._parser.stopped or None)


def token_logprob(model: Model, token: int, found: Chosen | None) -> TokenLogprob:
    """Give a token the form of the API; one that nothing was sampled for (None) was certain."""

    def form(one: int) -> tuple[str, list[int]]:
        data = model.piece(one) or model.vocabulary.text_of(one).encode()
        return data.decode(errors="replace"), list(data)

    text, data = form(token)
    if found is None:
        return TokenLogprob(text, 0.0, data)
    best = [TopLogprob(form(one)[0], logprob, form(one)[1]) for one, logprob in found.best]
    return TokenLogprob(text, found.logprob, data, best)


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


def drain(events: Events, count: int, on_text: Callable[[str], None] | None = None) -> list[Answer]:
    """Wait for as many answers; `on_text` is called with the content as it comes."""
    found: dict[int, Answer] = {}
    while len(found) < count:
        number, event = next(events)
        if isinstance(event, Answer):
            found[number] = event
        elif isinstance(event, Exception):
            raise event
        elif on_text is not None and isinstance(event, Delta) and event.content:
            on_text(event.content)
    return [found[number] for number in range(count)]


def chat_completion(name: str, answers: Sequence[Answer], answer_type: AnswerType | None = None) -> ChatCompletion:
    """Give the answers to one prompt OpenAI's form; `name` is the model's."""
    choices = [
        openai_types.Choice(each.message, each.finish_reason, index, each.logprobs, each.stop_text)
        for index, each in enumerate(answers)
    ]
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
    name: str, events: Events, count: int, include_usage: bool | None = None
) -> Generator[ChatCompletionChunk, None, None]:
    """Give the pieces of the answers to one prompt, as they come, OpenAI's form.

    Args:
        name: of the model.
        events: of the answers.
        count: of answers.
        include_usage: see `GenerateOptions`.

    """
    identity, created = openai_types.new_id(), int(time.time())
    done: dict[int, Answer] = {}
    tokens: dict[int, list[TokenLogprob]] = {}  # whose text is in the next piece
    roles: dict[int, Literal["assistant"] | None] = dict.fromkeys(range(count), "assistant")  # in each first piece
    while len(done) < count:
        index, event = next(events)
        if isinstance(event, Exception):
            raise event
        if isinstance(event, TokenLogprob):
            tokens.setdefault(index, []).append(event)
            continue
        found = tokens.pop(index, None) if isinstance(event, Delta | Answer) else None
        logprobs = None if found is None else ChoiceLogprobs(found)
        if isinstance(event, Delta):
            delta = replace(event, role=roles[index])
            choice = openai_types.ChunkChoice(delta, None, index, logprobs)
            yield ChatCompletionChunk(name, [choice], identity, created)
        elif isinstance(event, Answer):
            done[index] = event
            last = len(done) == count
            timings, reasoning_tokens = _sum([done[number] for number in sorted(done)])
            usage = openai_types.usage(timings, reasoning_tokens)
            last_delta = Delta(role=roles[index])
            choice = openai_types.ChunkChoice(last_delta, event.finish_reason, index, logprobs, event.stop_text)
            yield ChatCompletionChunk(
                name,
                [choice],
                identity,
                created,
                usage=usage if last and include_usage is None else None,
                timings=timings if last else None,
            )
        else:
            continue
        roles[index] = None
    if include_usage:
        yield ChatCompletionChunk(name, [], identity, created, usage=usage, timings=timings)


def text_chunks(events: Events, on_text: Callable[[str], None] | None = None) -> Generator[CompletionChunk, None, None]:
    """Give the pieces of a continued text; the last one has the finish reason, usage and timings."""
    for _, event in events:
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Answer):
            yield CompletionChunk("", event.finish_reason, event.timings)
            return
        if isinstance(event, Delta) and event.content:
            if on_text is not None:
                on_text(event.content)
            yield CompletionChunk(event.content)


def completion(whole: Answer, answer_type: AnswerType | None = None) -> Completion:
    """Give the form of a continued text."""
    return Completion(whole.message.content or "", whole.finish_reason, whole.timings, answer_type)
