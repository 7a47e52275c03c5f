"""The ASGI application: routes, errors, and what runs while it is up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qwen35_gguf.errors import Qwen35Error
from qwen35_gguf.server.access import AccessRules
from qwen35_gguf.server.api import openai_chat, openai_completions, openai_models, operations
from qwen35_gguf.server.api.anthropic import routes as anthropic
from qwen35_gguf.server.api.responses import routes as responses
from qwen35_gguf.server.api_error import ApiError, api_error, error_object
from qwen35_gguf.server.models import Models
from qwen35_gguf.server.monitoring.metrics import Metrics
from qwen35_gguf.server.monitoring.request_log import GONE, RequestLog
from qwen35_gguf.server.page import routes as page
from qwen35_gguf.server.service import Service
from qwen35_gguf.server.settings import ServerSettings
from qwen35_gguf.server.streaming import ClientGoneError

log = logging.getLogger(__name__)

APIS = (
    openai_chat.routes,
    openai_completions.routes,
    openai_models.routes,
    responses.routes,
    anthropic.routes,
    operations.routes,
    page.routes,
)
IDLE_CHECK = 1.0  # seconds


def create_app(settings: ServerSettings, models: Models, *, preload: bool = False) -> Starlette:
    """Make the application.

    Args:
        settings: of the server.
        models: that it serves; they are freed when the application ends.
        preload: load the first model when the application begins.

    """
    service = Service(settings, models, Metrics(models))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_unload_idle(models))]
        if preload:
            tasks.append(asyncio.create_task(_preload(models)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await models.aclose()

    return Starlette(
        routes=[route for api in APIS for route in api(service)],
        middleware=[Middleware(RequestLog, metrics=service.metrics), Middleware(AccessRules, settings=settings)],
        exception_handlers={
            ApiError: _respond,
            Qwen35Error: _respond,
            HTTPException: _respond,
            ClientGoneError: _respond,
        },
        lifespan=lifespan,
    )


async def _unload_idle(models: Models) -> None:
    while True:
        await asyncio.sleep(IDLE_CHECK)
        await models.unload_idle()


async def _preload(models: Models) -> None:
    try:
        await models.load()
    except (Qwen35Error, ApiError) as error:  # each request gets it again
        log.error("%s", error)


async def _respond(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientGoneError):
        return Response(status_code=GONE)
    if isinstance(error, HTTPException):
        found = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    else:
        found = api_error(error)
    return JSONResponse(error_object(request.url.path, found), found.status, headers=found.headers)
