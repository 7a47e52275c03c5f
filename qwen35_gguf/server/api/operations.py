"""For the operator: GET /health."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf.server.service import Service


def routes(service: Service) -> list[Route]:
    """Return the routes of this API."""

    async def health(_: Request) -> Response:
        loading = any(one.state == "loading" for one in service.models.served.values())
        return JSONResponse({"status": "loading" if loading else "ok"}, 503 if loading else 200)

    return [Route("/health", health)]
