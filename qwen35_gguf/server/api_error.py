"""What a server answers in place of a result: a status, and the error object of the API that was called."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from qwen35_gguf import thread_limit
from qwen35_gguf.errors import (
    ClosedError,
    ContextError,
    MemoryLimitError,
    ModelError,
    QueueFullError,
    Qwen35Error,
    RpcServerError,
    ThreadLimitError,
    TimeLimitError,
)

_FIELD = re.compile(r"([a-z_]+)(?:\[|:|\.)")


@dataclass(eq=False)  # not frozen: what raises an error sets its traceback
class ApiError(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        message: one line.
        code: OpenAI's, such as "model_not_found".
        param: the field of the request that is wrong.
        retry_after: seconds after which it may be tried again.

    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Make the error for a field that is wrong."""
    return ApiError(400, message, code, param)


def api_error(error: BaseException) -> ApiError:
    """Turn any error into what a client may read; what is not the client's mistake gets no details."""
    if isinstance(error, ApiError):
        return error
    message = " ".join(str(error).splitlines())
    if isinstance(error, ContextError):
        return ApiError(400, message, "context_length_exceeded", "messages")
    if isinstance(error, QueueFullError):
        return ApiError(503, message, "overloaded", retry_after=error.seconds)
    if isinstance(error, MemoryLimitError | ThreadLimitError | ClosedError | RpcServerError):
        return ApiError(503, message, "unavailable", retry_after=5)
    if isinstance(error, RuntimeError) and str(error) == thread_limit.NOT_STARTED:
        return ApiError(503, thread_limit.refusal(1, 0), "unavailable", retry_after=5)
    if isinstance(error, TimeLimitError):
        return ApiError(504, message, "timeout")
    if isinstance(error, ModelError):
        return ApiError(500, message, "model_error")
    if isinstance(error, Qwen35Error):
        found = _FIELD.match(message)
        return ApiError(400, message, None, found[1] if found else None)
    return ApiError(500, "internal error: the server's log has the details", "internal_error")


_OPENAI_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def openai_error(error: ApiError) -> dict[str, Any]:
    """Return OpenAI's error object."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    kind = _OPENAI_KINDS.get(error.status, kind)
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """Return Anthropic's error object."""
    kind = _ANTHROPIC_KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def error_object(path: str, error: ApiError) -> dict[str, Any]:
    """Return the error object of the API to which a path belongs."""
    return anthropic_error(error) if path.startswith("/v1/messages") else openai_error(error)
