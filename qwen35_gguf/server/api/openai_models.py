"""The list of models: GET /v1/models and /v1/models/NAME, with the fields of both OpenAI and Anthropic."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf.server.models import ServedModel
from qwen35_gguf.server.service import Service


def routes(service: Service) -> list[Route]:
    """Return the routes of this API."""

    async def models(_: Request) -> Response:
        found = [model_object(one) for one in service.models.served.values()]
        ends = {"first_id": found[0]["id"], "last_id": found[-1]["id"], "has_more": False}
        return JSONResponse({"object": "list", "data": found, **ends})

    async def model(request: Request) -> Response:
        return JSONResponse(model_object(service.models.find(request.path_params["name"])))

    return [Route("/v1/models", models), Route("/v1/models/{name:path}", model)]


def model_object(served: ServedModel) -> dict[str, Any]:
    """Return a model as both APIs have it, whose fields have no name in common but the id."""
    return {
        "id": served.name,
        "object": "model",
        "type": "model",
        "display_name": served.name,
        "created_at": datetime.fromtimestamp(served.created, timezone.utc).isoformat(),
        "lifecycle": "active",
        "created": served.created,
        "owned_by": "qwen35-gguf",
        "state": served.state,
    }
