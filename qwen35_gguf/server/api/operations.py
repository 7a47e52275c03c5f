"""For the operator and for tools of llama.cpp: state, counts, the tokenizer and the chat template.

Source of the forms: llama.cpp tools/server/README.md; "/metrics" is Prometheus' own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf import __version__
from qwen35_gguf.runtime.options import GenerateOptions
from qwen35_gguf.server.api.fields import flag_of
from qwen35_gguf.server.api.openai_chat import chat_options
from qwen35_gguf.server.json_body import read_checked, read_object
from qwen35_gguf.server.models import ServedModel
from qwen35_gguf.server.monitoring.exposition import CONTENT_TYPE
from qwen35_gguf.server.request_limits import check_messages, check_options
from qwen35_gguf.server.service import Service

PART = 1 << 14  # tokens that are written without a break


def routes(service: Service) -> list[Route]:
    """Return the routes of this API."""
    models, settings = service.models, service.settings

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "loading"}, 503) if models.starting else JSONResponse({"status": "ok"})

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def tokenize(request: Request) -> Response:
        body = await read_object(request, settings)
        special, with_pieces = body.get("parse_special") is not False, flag_of(body, "with_pieces")
        async with models.use(body.get("model")) as taken:
            with (await taken.model.load()).texts() as texts:
                tokens = await asyncio.to_thread(texts.tokenize, body.get("content"), special=special)
                pieces = await asyncio.to_thread(texts.pieces, tokens) if with_pieces else None
        return Response(await asyncio.to_thread(_tokens_object, tokens, pieces), media_type="application/json")

    async def detokenize(request: Request) -> Response:
        body = await read_object(request, settings)
        async with models.use(body.get("model")) as taken:
            with (await taken.model.load()).texts() as texts:
                pieces = await asyncio.to_thread(texts.pieces, body.get("tokens"))
                return JSONResponse({"content": b"".join(pieces).decode(errors="replace")})

    def checked(body: dict[str, Any]) -> GenerateOptions:
        check_messages(body.get("messages"), settings.limits)
        options = chat_options(body)
        check_options(options, settings.limits)
        return options

    async def apply_template(request: Request) -> Response:
        body, options = await read_checked(request, settings, checked)
        async with models.use(body.get("model")) as taken:
            with (await taken.model.load()).texts() as texts:
                return JSONResponse({"prompt": await asyncio.to_thread(texts.render, body["messages"], options)})

    async def props(request: Request) -> Response:
        served = models.find(request.query_params.get("model"))
        async with models.use(served.name) as taken:
            loaded = await taken.model.load()
            with loaded.texts() as texts:
                template, sees_images = texts.chat_template, texts.sees_images
        return JSONResponse(
            {
                "model": loaded.name,
                "total_slots": served.options.parallel,
                "n_ctx": loaded.n_ctx,
                "default_generation_settings": {"n_ctx": loaded.n_ctx},
                "chat_template": template,
                "modalities": {"vision": sees_images, "audio": False},
                "build_info": f"qwen35-gguf {__version__}",
                "models": list(models.served),
            }
        )

    async def slots(_: Request) -> Response:
        return JSONResponse([slot for served in models.served.values() for slot in _slots(served)])

    return [
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/apply-template", apply_template, methods=["POST"]),
        Route("/props", props),
        Route("/slots", slots),
    ]


def _slots(served: ServedModel) -> Iterator[dict[str, Any]]:
    """Give the sequences of a loaded model; the fields that llama-server has are named as there."""
    snapshot = served.snapshot()
    for slot in () if snapshot is None else snapshot.slots:
        yield {
            "id": slot.number,
            "model": served.name,
            "is_processing": slot.phase != "idle",
            "state": slot.phase,
            "n_held": slot.held,
            "n_prompt_tokens": slot.prompt,
            "n_prompt_tokens_processed": slot.evaluated,
            "n_decoded": slot.generated,
        }


def _tokens_object(tokens: Sequence[int], pieces: Sequence[bytes] | None) -> bytes:
    """Return tokens as JSON, a part after the other: between two, other threads take their turn."""
    parts = []
    for at in range(0, len(tokens), PART):
        found: list[Any] = list(tokens[at : at + PART])
        if pieces is not None:
            several = zip(found, pieces[at : at + PART], strict=True)
            found = [{"id": token, "piece": _text(piece)} for token, piece in several]
        parts.append(json.dumps(found, ensure_ascii=False, separators=(",", ":"))[1:-1])
    return f'{{"tokens":[{",".join(parts)}]}}'.encode()


def _text(piece: bytes) -> Any:
    """Return the text of a token; its bytes where they are only a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
