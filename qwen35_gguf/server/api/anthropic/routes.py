"""POST /v1/messages and POST /v1/messages/count_tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf.runtime.chat.openai_types import ChatCompletionChunk
from qwen35_gguf.server.access import scoped
from qwen35_gguf.server.answering import Progress, exchange
from qwen35_gguf.server.api.anthropic.message_answer import MessageEvents, message_object
from qwen35_gguf.server.api.anthropic.message_request import MessageRequest, message_request
from qwen35_gguf.server.api.tools import with_enforceable
from qwen35_gguf.server.json_body import read_checked
from qwen35_gguf.server.request_limits import check_messages, check_options
from qwen35_gguf.server.service import Service
from qwen35_gguf.server.streaming import event


def routes(service: Service) -> list[Route]:
    """Return the routes of this API."""

    def checked(body: dict[str, Any], *, counting: bool = False) -> MessageRequest:
        check_messages(body.get("messages"), service.settings.limits)  # before each is read
        wanted = message_request(body, counting=counting)
        check_messages(wanted.messages, service.settings.limits)
        check_options(wanted.options, service.settings.limits)  # before each tool is tried
        return replace(wanted, options=with_enforceable(wanted.options))

    async def create(request: Request) -> Response:
        body, wanted = await read_checked(request, service.settings, checked, slow=True)
        options, shown = scoped(request, wanted.options), wanted.show_thinking
        async with exchange(service, request, body.get("model")) as asked:
            chat = asked.model.chat
            if not wanted.stream:
                whole = await asked.whole(chat(wanted.messages, options))
                return JSONResponse(message_object(whole, asked.name, options.max_tokens, show_thinking=shown))
            answer = chat(wanted.messages, options, stream=True, on_progress=asked.progress)
            events = MessageEvents(asked.name, options.max_tokens, show_thinking=shown)
            return await asked.stream(answer, lambda chunks: _encoded(chunks, events, asked.progress))

    async def count(request: Request) -> Response:
        body, wanted = await read_checked(request, service.settings, partial(checked, counting=True), slow=True)
        async with exchange(service, request, body.get("model")) as asked:
            with (await asked.model.load()).texts() as texts:  # images are decoded beside the loop
                tokens = await asyncio.to_thread(texts.count, wanted.messages, wanted.options)
            return JSONResponse({"input_tokens": tokens})

    return [
        Route("/v1/messages", create, methods=["POST"]),
        Route("/v1/messages/count_tokens", count, methods=["POST"]),
    ]


async def _encoded(
    chunks: AsyncIterator[ChatCompletionChunk], events: MessageEvents, progress: Progress
) -> AsyncGenerator[bytes, None]:
    started = False
    async for chunk in chunks:
        if not started:
            started = True
            for each in events.start(progress.total):
                yield event(each, each["type"])
        for each in events.chunk(chunk):
            yield event(each, each["type"])
