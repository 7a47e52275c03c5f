"""The chat page: GET / and its files, and POST /page/render, which turns Markdown into HTML for it."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pygments.formatters import HtmlFormatter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf.server.api_error import ApiError, bad_request
from qwen35_gguf.server.json_body import read_checked
from qwen35_gguf.server.page.markdown import render
from qwen35_gguf.server.service import Service

# Nothing from elsewhere, no inline scripts or styles, and HTML only through the one policy of markdown.js.
SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types rendered-markdown",
    )
)
HEADERS = {
    "Cache-Control": "no-cache",  # asked for again each time, and mostly answered with 304
    "Content-Security-Policy": SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
LIGHT_COLORS, DARK_COLORS = "friendly", "github-dark"
COLORS = "colors.css"
MAX_TEXTS, MAX_CHARACTERS = 512, 1 << 20
MAX_RENDERED = 100_000  # characters of one text; a longer one is shown as it is


@dataclass(frozen=True)
class PageFile:
    """A file of the page, as it is sent."""

    content: bytes
    media_type: str

    @property
    def tag(self) -> str:
        """An ETag, which changes with the content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:24]}"'


def routes(service: Service) -> list[Route]:
    """Return the routes of the page."""
    files = page_files()

    async def index(request: Request) -> Response:
        return _answer(request, files["index.html"])

    async def file(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        if found is None:
            raise ApiError(404, "page: there is no such file; open /")
        return _answer(request, found)

    async def rendered(request: Request) -> Response:
        _, texts = await read_checked(request, service.settings, _texts)
        return JSONResponse(
            {"texts": await run_in_threadpool(_render_all, texts)}, headers={"Cache-Control": "no-store"}
        )

    return [
        Route("/", index),
        Route("/page/render", rendered, methods=["POST"]),
        Route("/page/{name}", file),
    ]


def page_files() -> dict[str, PageFile]:
    """Read the files of the page by name. A request chooses among them: no path of a request is ever opened."""
    folder = resources.files("qwen35_gguf.server.page") / "static"
    found = {}
    for entry in folder.iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in TYPES:
            found[entry.name] = PageFile(entry.read_bytes(), TYPES[suffix])
    found[COLORS] = PageFile(code_colors().encode(), TYPES[".css"])
    return found


def code_colors() -> str:
    """Make the style sheet of code: Pygments' colors, light and dark, as the page's theme is."""
    light = _rules(LIGHT_COLORS, ":root code")
    dark = _rules(DARK_COLORS, ':root:not([data-theme="light"]) code')
    chosen = _rules(DARK_COLORS, ':root[data-theme="dark"] code')
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{chosen}\n"


def _rules(style: str, scope: str) -> str:
    made: str = HtmlFormatter(style=style, nobackground=True).get_style_defs(scope)
    return "\n".join(line for line in made.splitlines() if line.startswith(f"{scope} ."))


def _answer(request: Request, found: PageFile) -> Response:
    headers = {**HEADERS, "ETag": found.tag}
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)


def _texts(body: Mapping[str, Any]) -> list[str]:
    texts = body.get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise bad_request("texts: is not a list of texts", "texts")
    if len(texts) > MAX_TEXTS or sum(map(len, texts)) > MAX_CHARACTERS:
        raise ApiError(413, f"texts: more than {MAX_TEXTS} texts or {MAX_CHARACTERS:,} characters; send less")
    return texts


def _render_all(texts: list[str]) -> list[list[dict[str, Any]]]:
    return [_render(text) for text in texts]


def _render(text: str) -> list[dict[str, Any]]:
    if len(text) > MAX_RENDERED:
        return [{"line": 0, "html": f'<p class="unrendered">{html.escape(text)}</p>'}]
    return [{"line": block.line, "html": block.html} for block in render(text)]
