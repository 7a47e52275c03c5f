"""Ask a server for chats: ours, or another with OpenAI's API. It needs no package beside the standard library's."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import mimetypes
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qwen35_gguf.errors import MediaError, ServerError
from qwen35_gguf.json_file import JsonObject
from qwen35_gguf.runtime.chat.openai_types import ChatCompletionChunk, Message
from qwen35_gguf.runtime.engine.sampling import LIMITS
from qwen35_gguf.runtime.options import GenerateOptions
from qwen35_gguf.server.client import remote_answer

TIMEOUT = 600.0  # seconds without a sign of life
_ADDRESS = re.compile(r"(?:data:|https?://)", re.IGNORECASE)
_PROGRESS = re.compile(rb": prompt (\d{1,18})/(\d{1,18})\s")


class RemoteModel:
    """A model behind a server.

    Attributes:
        name: by which the server knows it.

    """

    def __init__(self, url: str, name: str | None = None, api_key: str | None = None) -> None:
        """Look for a model; without a name the server's first one is taken.

        Raises:
            ServerError: the URL is malformed, or no server answers there.

        """
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is none, or half an IPv6 address
            usable = False
        if not usable or re.search(r"[\x00-\x20\x7f]", parts.netloc):
            raise ServerError(f"{url}: is not the URL of a server; give one like http://localhost:8080")
        self._place, self._base = parts, parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {api_key}"} if api_key else {}
        )
        with self._answer("GET", "/v1/models") as response:
            known = remote_answer.model_names(remote_answer.read_body(response, parts.netloc))
        if name is None and not known:
            raise ServerError(f"{url}: serves no model")
        self.name = known[0] if name is None else name

    def chat(
        self,
        messages: Sequence[Mapping[str, Any] | Message],
        options: GenerateOptions,
        on_progress: Callable[[int, int], None] = lambda *_: None,
    ) -> Generator[ChatCompletionChunk, None, None]:
        """Answer a conversation in pieces, as `Qwen35.chat` does; closing the generator stops the answer.

        Raises:
            ServerError: the server refuses the request, or is gone.
            MediaError: a file cannot be read.

        """
        body = {
            "model": self.name,
            "messages": [_message(message) for message in messages],
            "stream": True,
            "max_tokens": options.max_tokens,
            "seed": options.seed,
            "thinking_budget": options.thinking_budget,
            "stop_loops": options.stop_loops,
            **{name: getattr(options, name) for name in LIMITS},
        }
        variables = dict(options.template_options or {})
        if options.thinking is not None:
            variables["enable_thinking"] = options.thinking
        body["chat_template_kwargs"] = variables or None
        given = {name: value for name, value in body.items() if value is not None}
        with self._answer("POST", "/v1/chat/completions", json.dumps(given)) as response:
            for data in self._events(response, on_progress):
                yield remote_answer.chunk_of(data)

    def _events(
        self, response: http.client.HTTPResponse, on_progress: Callable[[int, int], None]
    ) -> Iterator[JsonObject]:
        for line in remote_answer.read_lines(response, self._place.netloc):
            if found := _PROGRESS.match(line):
                on_progress(int(found[1]), int(found[2]))
            if not line.startswith(b"data:"):
                continue
            text = line.removeprefix(b"data:").strip()
            if text == b"[DONE]":
                return
            yield remote_answer.read_event(text, self._place.netloc)
        raise ServerError(f"{self._place.netloc}: the answer broke off; ask again")

    @contextlib.contextmanager
    def _answer(self, method: str, path: str, body: str | None = None) -> Iterator[http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._place.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._place.hostname or "", self._place.port, timeout=TIMEOUT)
        try:
            connection.request(method, self._base + path, body, self._headers)
            with connection.getresponse() as response:  # it outlives a connection that the server closes
                if response.status != 200:
                    raise ServerError(f"{self._place.netloc}: answers {response.status}: {self._reason(response)}")
                yield response
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServerError(f"{self._place.netloc}: does not answer ({error}); check the URL") from None
        finally:
            connection.close()

    def _reason(self, response: http.client.HTTPResponse) -> str:
        try:
            return remote_answer.error_message(remote_answer.read_body(response, self._place.netloc))
        except ServerError:
            return response.reason


def _message(message: Mapping[str, Any] | Message) -> dict[str, Any]:
    """Return a message as JSON, with files as data URIs."""
    made = message.to_dict() if isinstance(message, Message) else dict(message)
    content = made.get("content")
    if isinstance(content, list):
        made["content"] = [_part(part) for part in content]
    return made


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("image_url", "video_url"):
        if part.get("type") == key and not _ADDRESS.match(source := part[key]["url"]):
            return {"type": key, key: {"url": _data_uri(Path(source).expanduser())}}
    return dict(part)


def _data_uri(path: Path) -> str:
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror or error}); name another file") from None
    return f"data:{mimetypes.guess_type(path.name)[0] or 'application/octet-stream'};base64,{data}"
