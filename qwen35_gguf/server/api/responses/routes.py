"""POST /v1/responses, and GET and DELETE of those that are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf.runtime.chat.openai_types import ChatCompletionChunk
from qwen35_gguf.server.access import requests_scope, scoped
from qwen35_gguf.server.answering import exchange
from qwen35_gguf.server.api.responses.input_items import library_messages
from qwen35_gguf.server.api.responses.response_answer import ResponseEvents, ResponseHead, whole_response
from qwen35_gguf.server.api.responses.response_request import ResponseRequest, response_request
from qwen35_gguf.server.api.responses.response_store import ResponseStore, StoredResponse
from qwen35_gguf.server.api.tools import with_enforceable
from qwen35_gguf.server.api_error import api_error
from qwen35_gguf.server.json_body import read_checked
from qwen35_gguf.server.request_limits import check_items, check_messages, check_options, check_size
from qwen35_gguf.server.service import Service
from qwen35_gguf.server.streaming import event

Keep = Callable[[dict[str, Any]], Awaitable[None]]

REPEATED = ("metadata", "user", "tool_choice", "reasoning")  # in the answer; the others are checked elsewhere


def routes(service: Service) -> list[Route]:
    """Return the routes of this API."""
    store = ResponseStore()
    limits = service.settings.limits

    def checked(body: dict[str, Any], scope: str | None) -> tuple[ResponseRequest, list[Any], list[dict[str, Any]]]:
        wanted = response_request(body)
        for name in REPEATED:
            check_size(name, body.get(name), limits)
        check_options(wanted.options, limits)  # before each tool is tried
        items = [*_earlier(store, wanted, scope), *wanted.items]
        check_items(items, limits)
        messages = library_messages(wanted.instructions, items)
        check_messages(messages, limits)
        return replace(wanted, options=with_enforceable(wanted.options)), items, messages

    async def create(request: Request) -> Response:
        scope = requests_scope(request)
        body, (wanted, items, messages) = await read_checked(
            request, service.settings, partial(checked, scope=scope), slow=True
        )
        options = scoped(request, wanted.options)

        async def keep(response: dict[str, Any]) -> None:
            if wanted.store:
                await asyncio.to_thread(store.add, StoredResponse(response, items, scope))

        async with exchange(service, request, body.get("model")) as asked:
            head, chat = ResponseHead(asked.name, wanted.shown), asked.model.chat
            if not wanted.stream:
                response = whole_response(head, await asked.whole(chat(messages, options)))
                await keep(response)
                return JSONResponse(response)
            answer = chat(messages, options, stream=True, on_progress=asked.progress)
            return await asked.stream(answer, lambda chunks: _encoded(chunks, ResponseEvents(head), keep))

    async def find(request: Request) -> Response:
        return JSONResponse(store.find(request.path_params["id"], requests_scope(request)).response)

    async def remove(request: Request) -> Response:
        store.remove(request.path_params["id"], requests_scope(request))
        return JSONResponse({"id": request.path_params["id"], "object": "response", "deleted": True})

    async def input_items(request: Request) -> Response:
        items = store.find(request.path_params["id"], requests_scope(request)).items
        ends = {"first_id": None, "last_id": None, "has_more": False}
        return JSONResponse({"object": "list", "data": items, **ends})

    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route("/v1/responses/{id}", find, methods=["GET"]),
        Route("/v1/responses/{id}", remove, methods=["DELETE"]),
        Route("/v1/responses/{id}/input_items", input_items, methods=["GET"]),
    ]


def _earlier(store: ResponseStore, wanted: ResponseRequest, scope: str | None) -> list[Any]:
    if wanted.previous is None:
        return []
    return store.find(wanted.previous, scope, "previous_response_id", 400).conversation


async def _encoded(
    chunks: AsyncIterator[ChatCompletionChunk],
    events: ResponseEvents,
    keep: Callable[[dict[str, Any]], Awaitable[None]],
) -> AsyncGenerator[bytes, None]:
    started = False
    try:
        async for chunk in chunks:
            made = [] if started else [*events.start()]
            started = True
            for each in (*made, *events.chunk(chunk)):
                if each["type"] in ("response.completed", "response.incomplete"):
                    await keep(each["response"])
                yield event(each, each["type"])
    except Exception as error:  # in the middle of an answer this API has an event of its own
        for each in events.failed(api_error(error).message):
            yield event(each, each["type"])
