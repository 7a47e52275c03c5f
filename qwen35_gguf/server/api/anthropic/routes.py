"""POST /v1/messages and POST /v1/messages/count_tokens."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf.runtime.async_model import AsyncStream
from qwen35_gguf.runtime.chat.openai_types import ChatCompletionChunk
from qwen35_gguf.server.answering import Progress, stream_events
from qwen35_gguf.server.api.anthropic.message_answer import MessageEvents, message_object
from qwen35_gguf.server.api.anthropic.message_request import MessageRequest, message_request
from qwen35_gguf.server.api_error import anthropic_error, api_error
from qwen35_gguf.server.json_body import read_object
from qwen35_gguf.server.request_limits import check_messages, check_options
from qwen35_gguf.server.service import Service
from qwen35_gguf.server.streaming import event, unless_gone


def routes(service: Service) -> list[Route]:
    """Return the routes of this API."""

    async def read(request: Request, *, counting: bool = False) -> tuple[object, MessageRequest]:
        body = await read_object(request, service.settings)
        wanted = message_request(body, counting=counting)
        check_messages(wanted.messages, service.settings.limits)
        check_options(wanted.options, service.settings.limits)
        return body.get("model"), wanted

    async def create(request: Request) -> Response:
        asked, wanted = await read(request)
        limit, shown = wanted.options.max_tokens, wanted.show_thinking
        async with contextlib.AsyncExitStack() as stack:
            model = await stack.enter_async_context(service.models.use(asked))
            name = service.models.find(asked).name
            if not wanted.stream:
                whole = await unless_gone(request.receive, model.chat(wanted.messages, wanted.options))
                return JSONResponse(message_object(whole, name, limit, show_thinking=shown))
            progress = Progress()
            answer = model.chat(wanted.messages, wanted.options, stream=True, on_progress=progress)
            events = _events(answer, MessageEvents(name, limit, show_thinking=shown), progress)
            return await stream_events(request, service.settings, answer, events, progress, stack.pop_all())

    async def count(request: Request) -> Response:
        asked, wanted = await read(request, counting=True)
        async with service.models.use(asked) as model:
            tokens = await unless_gone(request.receive, model.count_tokens(wanted.messages, wanted.options))
            return JSONResponse({"input_tokens": tokens})

    return [
        Route("/v1/messages", create, methods=["POST"]),
        Route("/v1/messages/count_tokens", count, methods=["POST"]),
    ]


async def _events(
    answer: AsyncStream[ChatCompletionChunk], events: MessageEvents, progress: Progress
) -> AsyncGenerator[bytes, None]:
    started = False
    try:
        async for chunk in answer:
            if not started:
                started = True
                for each in events.start(progress.total):
                    yield event(each, each["type"])
            for each in events.chunk(chunk):
                yield event(each, each["type"])
    except Exception as error:
        yield event(anthropic_error(api_error(error)), "error")
