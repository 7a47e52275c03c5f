"""OpenAI's chat endpoint as an ASGI application, with starlette: one model, any number of clients.

    pip install starlette uvicorn
    QWEN35_MODEL=models/Qwen3.5-9B-Q4_K_M.gguf uvicorn --app-dir examples asgi_app:app

Requests wait for one another. A client that goes away frees the model after at most one call of llama.cpp.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from qwen35_gguf import AsyncQwen35, AsyncStream, ChatCompletionChunk, MediaLimits, Qwen35Error

# What a request may set; the paths of this machine are not for others.
OPTIONS = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "tools", "tool_choice")
LIMITS = MediaLimits(local_files=False)


def application(path: str, **options: Any) -> Starlette:
    """Make an application for a GGUF file; the options are those of `LoadOptions`."""
    model = AsyncQwen35(path, media_limits=LIMITS, **options)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with model:
            yield

    async def chat(request: Request) -> Response:
        try:
            body = await request.json()
            wanted = {name: body[name] for name in (*OPTIONS, "response_format", "stream_options") if name in body}
            if not body.get("stream"):
                completion = await model.chat(body.get("messages"), timeout=600.0, **wanted)
                return JSONResponse(completion.to_dict())
            stream = await model.chat(body.get("messages"), stream=True, **wanted)
        except (ValueError, TypeError, AttributeError, Qwen35Error) as error:
            return JSONResponse({"error": {"message": str(error), "type": "invalid_request_error"}}, 400)
        return StreamingResponse(events(stream), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])], lifespan=lifespan)


async def events(stream: AsyncStream[ChatCompletionChunk]) -> AsyncIterator[str]:
    """Write chunks as server-sent events; closing the generator closes the stream."""
    async with stream:
        async for chunk in stream:
            yield f"data: {json.dumps(chunk.to_dict())}\n\n"
    yield "data: [DONE]\n\n"


if "QWEN35_MODEL" in os.environ:
    app = application(os.environ["QWEN35_MODEL"])
