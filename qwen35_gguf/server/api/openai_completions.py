"""OpenAI's completions of a text: POST /v1/completions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf.runtime.async_model import AsyncQwen35, AsyncStream
from qwen35_gguf.runtime.chat.openai_types import Completion, CompletionChunk, Timings, usage
from qwen35_gguf.runtime.engine.sampling import new_seed
from qwen35_gguf.runtime.field_checks import whole
from qwen35_gguf.runtime.options import RAW_OPTIONS, GenerateOptions
from qwen35_gguf.server.access import scoped
from qwen35_gguf.server.answering import exchange
from qwen35_gguf.server.api.fields import (
    SAMPLING,
    finish_of,
    flag_of,
    present,
    refuse,
    seed_of,
    usage_wanted,
    with_miss,
)
from qwen35_gguf.server.api_error import bad_request
from qwen35_gguf.server.json_body import read_checked
from qwen35_gguf.server.request_limits import check_options
from qwen35_gguf.server.service import Service
from qwen35_gguf.server.settings import RequestLimits
from qwen35_gguf.server.streaming import event

MAX_TOKENS = 16  # the original's default
REFUSED = {
    "suffix": "this model continues texts and does not fill gaps; leave it out",
    "logprobs": "is not supported here; use the chat completions",
}


@dataclass(frozen=True)
class Wanted:
    """A checked request: the prompts, of each of which `n` continuations are wanted."""

    prompts: tuple[Any, ...]
    n: int
    echo: bool
    options: GenerateOptions
    seed: int

    def choice(self, index: int) -> tuple[Any, GenerateOptions]:
        """Return the prompt of an answer, and its options, with a seed of its own."""
        return self.prompts[index // self.n], replace(self.options, seed=self.seed + index % self.n)

    @property
    def choices(self) -> int:
        """The number of answers."""
        return len(self.prompts) * self.n


@dataclass(frozen=True)
class Head:
    """What all pieces of an answer share."""

    model: str
    id: str
    created: int

    def object(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return an object of the API."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }


def routes(service: Service) -> list[Route]:
    """Return the routes of this API."""

    async def completions(request: Request) -> Response:
        body, wanted = await read_checked(
            request, service.settings, lambda given: read_request(given, service.settings.limits)
        )
        wanted = replace(wanted, options=scoped(request, wanted.options))
        async with exchange(service, request, body.get("model")) as asked:
            head = Head(asked.name, f"cmpl-{uuid.uuid4().hex[:24]}", int(time.time()))
            if not flag_of(body, "stream"):
                found = await asked.whole(_all(asked.model, wanted))
                choices = [
                    _choice(_echoed(wanted, at) + one.text, at, one.finish_reason) for at, one in enumerate(found)
                ]
                counted = _total([one.timings for one in found], wanted.n)
                return JSONResponse(head.object(choices, **counted))
            first, options = wanted.choice(0)
            answer = asked.model.generate(first, options, stream=True, on_progress=asked.progress)
            return await asked.stream(answer, lambda pieces: _events(asked.model, wanted, head, pieces))

    return [Route("/v1/completions", completions, methods=["POST"])]


def read_request(body: Mapping[str, Any], limits: RequestLimits) -> Wanted:
    """Check a request.

    Raises:
        ApiError: a field has a wrong value, or asks for what there is not.
        MessageError: likewise.

    """
    given = present(body)
    refuse(given, REFUSED)
    n = whole(1, limits.choices)("n", given.get("n", 1))
    if whole(1)("best_of", given.get("best_of", n)) > n:
        raise bad_request("best_of: answers beyond n are not made; leave it out", "best_of")
    options = {name: given[name] for name in SAMPLING if name in given}
    options |= {"max_tokens": given.get("max_tokens", MAX_TOKENS), "include_usage": usage_wanted(given)}
    made = GenerateOptions.of(None, options, RAW_OPTIONS)
    check_options(made, limits)
    prompts = _prompts(given.get("prompt"), limits)
    if len(prompts) * n > limits.answers:
        raise bad_request(
            f"n: {n} answers to {len(prompts)} prompts are more than {limits.answers}; ask for fewer", "n"
        )
    return Wanted(prompts, n, flag_of(body, "echo"), made, new_seed(seed_of(given.get("seed"))))


def _prompts(prompt: Any, limits: RequestLimits) -> tuple[Any, ...]:
    """Return texts and lists of tokens: there may be one, or several in a list."""
    several = prompt if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list) else [prompt]
    if len(several) > limits.choices:
        raise bad_request(f"prompt: {len(several)} prompts are more than {limits.choices}; send fewer", "prompt")
    for one in several:
        if not isinstance(one, str | list) or not one:
            raise bad_request("prompt: is neither a text nor a list of tokens, or is empty", "prompt")
    return tuple(several)


async def _all(model: AsyncQwen35, wanted: Wanted) -> list[Completion]:
    """Make the answers side by side; if one fails, the others end."""
    tasks = [asyncio.ensure_future(model.generate(*wanted.choice(at))) for at in range(wanted.choices)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _echoed(wanted: Wanted, index: int) -> str:
    prompt = wanted.choice(index)[0] if wanted.echo else ""
    return prompt if isinstance(prompt, str) else ""


def _choice(text: str, index: int, finish: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_of(finish)}


def _total(timings: list[Timings], n: int) -> dict[str, Any]:
    """Return the usage of several answers; a prompt counts once."""
    prompts = timings[::n]
    total = Timings(
        prompt_tokens=sum(one.prompt_tokens for one in prompts),
        reused_tokens=sum(one.reused_tokens for one in prompts),
        tokens=sum(one.tokens for one in timings),
        miss=next((one.miss for one in prompts if one.miss), ""),
    )
    return {"usage": with_miss(asdict(usage(total)), total)}


async def _events(
    model: AsyncQwen35, wanted: Wanted, head: Head, first: AsyncIterator[CompletionChunk]
) -> AsyncGenerator[bytes, None]:
    timings = []
    for at in range(wanted.choices):
        pieces = first
        following: AsyncStream[CompletionChunk] | None = None
        if at:
            prompt, options = wanted.choice(at)
            pieces = following = model.generate(prompt, options, stream=True)
        try:
            if echoed := _echoed(wanted, at):
                yield event(head.object([_choice(echoed, at, None)]))
            async for piece in pieces:
                if piece.timings is not None:
                    timings.append(piece.timings)
                yield event(head.object([_choice(piece.text, at, piece.finish_reason)]))
        finally:
            if following is not None:
                await following.aclose()
    if wanted.options.include_usage:
        yield event(head.object([], **_total(timings, wanted.n)))
    yield event("[DONE]")
