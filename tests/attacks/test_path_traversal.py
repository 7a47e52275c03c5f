"""No path of a request is opened, however it is spelled: not in the page, not as a model, an image or a response."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inputs.chat_requests import HELLO
from inputs.live_server import LiveServer

SECRET = "this-text-is-in-a-file-of-the-machine"
SPELLINGS = (
    "/page/{}",
    "/page/../{}",
    "/page/../../../../../..{}",
    "/page//{}",
    "/page/%2e%2e/%2e%2e/%2e%2e/%2e%2e{}",
    "/page/..%2f..%2f..%2f..%2f..{}",
    "/page/..%252f..%252f..%252f{}",
    "/page/..%5c..%5c..%5c{}",
    "/page/..;/..;{}",
    "/page/%c0%ae%c0%ae/%c0%ae%c0%ae{}",
    "/page/app.js%00{}",
    "/v1/models/..{}",
    "/v1/models/%2e%2e%2f%2e%2e{}",
    "/v1/responses/..%2f..{}",
    "/..{}",
    "//{}",
    "http://localhost/page/../..{}",
    "file://{}",
)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret.txt"
    file.write_text(SECRET, encoding="utf-8")
    return file


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_files_beside_the_page(spelling: str, secret: Path, send: Callable[[bytes], bytes]) -> None:
    for path in (str(secret), "/etc/hosts"):
        target = spelling.format(path).encode()
        answer = send(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.split(b" ", 2)[1] in (b"400", b"404"), answer
        assert SECRET.encode() not in answer
        assert b"127.0.0.1" not in answer


def test_models_are_names_and_not_files(server: LiveServer, demo: Path, secret: Path) -> None:
    for name in (str(demo), os.path.relpath(demo), f"../{demo.name}", f"{demo}\0", str(secret), "*", "de?o", "[d]emo"):
        answer = server.post("/v1/chat/completions", {"model": name, "messages": HELLO, "max_tokens": 1})
        assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("form", ["{}", "file://{}", "file:{}", "FILE://{}", "file://localhost{}", "/proc/self/root{}"])
def test_images_are_not_read_from_the_disk(form: str, server: LiveServer, tmp_path: Path) -> None:
    from PIL import Image

    image = tmp_path / "image.png"
    Image.new("RGB", (64, 64), "red").save(image)
    for kind in ("image_url", "video_url"):
        part = {"type": kind, kind: {"url": form.format(image)}}
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]
        answer = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
        assert answer.status == 400, answer.body


def test_schemas_do_not_refer_to_files_or_addresses(server: LiveServer, secret: Path) -> None:
    for reference in (str(secret), f"file://{secret}", "http://127.0.0.1:1/schema.json", "#/../../etc/hosts"):
        schema = {"type": "object", "properties": {"a": {"$ref": reference}}, "required": ["a"]}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answer = server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1, "response_format": form})
        assert answer.status == 400
        assert SECRET not in answer.body.decode()
