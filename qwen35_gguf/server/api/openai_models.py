"""OpenAI's list of models: GET /v1/models and /v1/models/NAME."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf.server.models import ServedModel
from qwen35_gguf.server.service import Service


def routes(service: Service) -> list[Route]:
    """Return the routes of this API."""

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_object(one) for one in service.models.served.values()]})

    async def model(request: Request) -> Response:
        return JSONResponse(model_object(service.models.find(request.path_params["name"])))

    return [Route("/v1/models", models), Route("/v1/models/{name:path}", model)]


def model_object(served: ServedModel) -> dict[str, Any]:
    """Return a model as the API has it."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "qwen35-gguf",
        "state": served.state,
    }
