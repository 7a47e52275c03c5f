"""Who may use the server: API keys, names of hosts, and web pages of other origins."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import uuid
from dataclasses import replace

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen35_gguf.runtime.options import GenerateOptions
from qwen35_gguf.server.api_error import ApiError, error_object
from qwen35_gguf.server.settings import LOOPBACK_NAMES, ServerSettings

_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::\d{1,5})?", re.ASCII)
# Without a key: what a load balancer asks, and the page, which asks its user for the key.
PUBLIC = ("/", "/health")
PUBLIC_FOLDER = "/page/"
_CHALLENGE, _CLOSE = {"WWW-Authenticate": "Bearer"}, {"Connection": "close"}
SCOPE = "qwen35.cache_scope"  # in the ASGI scope of a request
CORS_METHODS, CORS_AGE = "GET, POST, DELETE", "600"


class AccessRules:
    """Lets a request pass, or answers with an error; no part of a refused request's body is read."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        """Guard an application."""
        self._app = app
        self._hosts = {name.lower() for name in (*LOOPBACK_NAMES, settings.host, *settings.hosts)}
        self._origins = {origin.rstrip("/").lower() for origin in settings.origins}
        self._keys = [_digest(key) for key in settings.api_keys]
        self._scopes = [cache_scope(key) for key in settings.api_keys] if settings.isolate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        identity = f"req_{uuid.uuid4().hex}"  # under OpenAI's name and under Anthropic's
        extra = {"x-request-id": identity, "request-id": identity, "x-content-type-options": "nosniff"}
        if origin is not None and self._listed(origin):
            extra |= {"access-control-allow-origin": origin, "vary": "Origin"}

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(extra)
            await send(message)

        answer = self._refusal(scope, headers, origin)
        if answer is None and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            answer = _preflight(headers)
        await (answer or self._app)(scope, receive, send_more)

    def _refusal(self, scope: Scope, headers: Headers, origin: str | None) -> Response | None:
        path = scope["path"]
        name = _host_name(headers.get("host", ""))
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy in front may go by the other one, and take what follows for a part of this request.
            error = ApiError(400, "request: has both Content-Length and Transfer-Encoding; send one of them")
        elif name is None or not (name in self._hosts or _is_address(name)):
            error = ApiError(403, "host: this name is not one of this server; add it with --allow-host", "host")
        elif origin is not None and not (self._listed(origin) or _is_own(origin, headers["host"])):
            error = ApiError(403, "origin: pages of this origin may not use this server; add it with --cors", "origin")
        elif not (self._keys and not _is_public(scope)) or self._has_key(scope, headers):
            return None
        else:
            error = ApiError(401, "api key: is missing or wrong; send Authorization: Bearer KEY", "invalid_api_key")
        more = _CHALLENGE if error.status == 401 else _CLOSE if error.status == 400 else None
        return JSONResponse(error_object(path, error), error.status, more)

    def _listed(self, origin: str) -> bool:
        return "*" in self._origins or origin.lower() in self._origins

    def _has_key(self, request: Scope, headers: Headers) -> bool:
        """Compare with every key, in a time that does not depend on them; note which one it is."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("x-api-key", "")
        digest = _digest(given.strip())
        same = [hmac.compare_digest(digest, key) for key in self._keys]
        if self._scopes is not None and True in same:
            request[SCOPE] = self._scopes[same.index(True)]
        return True in same


def cache_scope(key: str) -> str:
    """Return what stands for a key in states on disk: guesses of a weak key cost time, and differ by program."""
    return hashlib.scrypt(key.encode(), salt=b"qwen35-gguf cache scope", n=1 << 14, r=8, p=1, dklen=16).hex()


def requests_scope(request: Request) -> str | None:
    """Return the scope of a request: what is known of prompts is shared within it; None: with all."""
    found = request.scope.get(SCOPE)
    return found if isinstance(found, str) else None


def scoped(request: Request, options: GenerateOptions) -> GenerateOptions:
    """Return the options of a request in its scope."""
    return replace(options, cache_scope=requests_scope(request))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _is_public(scope: Scope) -> bool:
    path, reads = scope["path"], scope["method"] in ("GET", "HEAD")
    preflight = scope["method"] == "OPTIONS"  # which browsers send without the key
    return preflight or (reads and (path in PUBLIC or path.startswith(PUBLIC_FOLDER)))


def _host_name(host: str) -> str | None:
    """Return the name in a Host header, without its port; None if it is malformed."""
    found = _HOST.fullmatch(host)
    return (found["address"] or found["name"]).lower() if found else None


def _is_address(name: str) -> bool:
    """Tell whether a name is an IP address: no name server can make it lead elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_own(origin: str, host: str) -> bool:
    """Tell whether a page came from this server."""
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _preflight(headers: Headers) -> Response:
    wanted = headers.get("access-control-request-headers", "authorization, content-type")
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": CORS_METHODS,
            "access-control-allow-headers": wanted,
            "access-control-max-age": CORS_AGE,
        },
    )
