"""For the operator and for tools of llama.cpp: state, counts, the tokenizer and the chat template.

Source of the forms: llama.cpp tools/server/README.md; "/metrics" is Prometheus' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf.server.api.fields import flag_of
from qwen35_gguf.server.api.openai_chat import chat_options
from qwen35_gguf.server.json_body import read_object
from qwen35_gguf.server.monitoring.exposition import CONTENT_TYPE
from qwen35_gguf.server.request_limits import check_messages
from qwen35_gguf.server.service import Service


def routes(service: Service) -> list[Route]:
    """Return the routes of this API."""
    models, settings = service.models, service.settings

    async def health(_: Request) -> Response:
        loading = any(one.state == "loading" for one in models.served.values())
        return JSONResponse({"status": "loading" if loading else "ok"}, 503 if loading else 200)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def tokenize(request: Request) -> Response:
        body = await read_object(request, settings)
        special, with_pieces = body.get("parse_special") is not False, flag_of(body, "with_pieces")
        async with models.use(body.get("model")) as model:
            with (await model.load()).texts() as texts:
                tokens = texts.tokenize(body.get("content"), special=special)
                found: list[Any] = list(tokens)
                if with_pieces:
                    pieces = zip(tokens, texts.pieces(tokens), strict=True)
                    found = [{"id": token, "piece": _text(piece)} for token, piece in pieces]
        return JSONResponse({"tokens": found})

    async def detokenize(request: Request) -> Response:
        body = await read_object(request, settings)
        async with models.use(body.get("model")) as model:
            with (await model.load()).texts() as texts:
                return JSONResponse({"content": b"".join(texts.pieces(body.get("tokens"))).decode(errors="replace")})

    async def apply_template(request: Request) -> Response:
        body = await read_object(request, settings)
        check_messages(body.get("messages"), settings.limits)
        async with models.use(body.get("model")) as model:
            with (await model.load()).texts() as texts:
                return JSONResponse({"prompt": texts.render(body["messages"], chat_options(body))})

    async def props(request: Request) -> Response:
        served = models.find(request.query_params.get("model"))
        async with models.use(served.name) as model:
            loaded = await model.load()
            with loaded.texts() as texts:
                template = texts.chat_template
        return JSONResponse(
            {
                "model": loaded.name,
                "total_slots": served.options.parallel,
                "n_ctx": loaded.n_ctx,
                "chat_template": template,
                "modalities": {"vision": True, "audio": False},
                "models": list(models.served),
            }
        )

    async def slots(_: Request) -> Response:
        found: list[Mapping[str, Any]] = []
        for served in models.served.values():
            found += [{"id": at, "model": served.name, "is_processing": True} for at in range(served.running)]
        return JSONResponse(found)

    return [
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/apply-template", apply_template, methods=["POST"]),
        Route("/props", props),
        Route("/slots", slots),
    ]


def _text(piece: bytes) -> Any:
    """Return the text of a token; its bytes where they are only a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
