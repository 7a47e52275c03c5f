"""The files of the chat page, and how they are sent."""

from __future__ import annotations

import re
from typing import Any

import pytest

from inputs.live_server import LiveServer
from qwen35_gguf.server.page.routes import page_files

FILES = page_files()


def test_everything_that_the_page_refers_to_is_sent(server: LiveServer) -> None:
    index = server.get("/")
    assert index.status == 200
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:href|src)="page/([^"]+)"', index.body.decode())
    for name, file in FILES.items():
        named += re.findall(r'from "\./([^"]+)"', file.content.decode()) if name.endswith(".js") else []
    assert len(named) > 20
    for name in sorted(set(named)):
        answer = server.get(f"/page/{name}")
        assert answer.status == 200
        assert answer.body == FILES[name].content
        assert answer.headers["content-type"].startswith(FILES[name].media_type)


def test_the_page_takes_nothing_from_elsewhere(server: LiveServer) -> None:
    for file in FILES.values():
        text = file.content.decode()
        assert not re.search(r"@import|url\(|\bimport\(|https?://(?!www\.w3\.org/2000/svg)", text)
        assert not re.search(r"\b(?:eval|Function)\(|document\.write|outerHTML|insertAdjacentHTML", text)
    assert sum(file.content.count(b"innerHTML") for file in FILES.values()) == 1
    policy = server.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    index = FILES["index.html"].content.decode()
    assert not re.search(r"<style|style=|\son\w+=|<script>", index)


def test_browsers_ask_again_and_get_what_changed_only(server: LiveServer) -> None:
    first = server.get("/page/app.js")
    assert first.headers["cache-control"] == "no-cache"
    again = server.get("/page/app.js", **{"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "name", ["../routes.py", "..%2froutes.py", "%2e%2e/routes.py", "routes.py", "", "a/b", "/etc/hosts"]
)
def test_no_other_file_is_sent(server: LiveServer, name: str) -> None:
    assert server.get(f"/page/{name}").status == 404


def test_texts_are_rendered(server: LiveServer) -> None:
    answer = server.post("/page/render", {"texts": ["# a\n\nb", "", "<b>"]})
    title, paragraph = answer.json["texts"][0]
    assert title == {"line": 0, "html": "<h1>a</h1>\n"}
    assert paragraph == {"line": 2, "html": "<p>b</p>\n"}
    assert answer.json["texts"][1:] == [[], [{"line": 0, "html": "<p>&lt;b&gt;</p>\n"}]]


def test_a_text_that_is_too_long_to_render_is_shown_as_it_is(server: LiveServer) -> None:
    (block,) = server.post("/page/render", {"texts": ["*<b>* " * 30_000]}).json["texts"][0]
    assert block["html"].startswith('<p class="unrendered">*&lt;b&gt;* *')


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 400), ({"texts": "a"}, 400), ({"texts": [1]}, 400), ({"texts": ["a" * 2_000_000]}, 413), ("{", 400)],
)
def test_wrong_requests_are_refused(server: LiveServer, body: Any, status: int) -> None:
    answer = server.post("/page/render", body)
    assert answer.status == status
    assert answer.json["error"]["message"]


def test_the_page_needs_no_key_and_what_it_asks_for_does(start: Any) -> None:
    guarded = start(api_keys=("secret",))
    assert guarded.get("/").status == 200
    assert guarded.get("/page/app.js").status == 200
    assert guarded.post("/page/render", {"texts": []}).status == 401
    assert guarded.post("/page/render", {"texts": []}, Authorization="Bearer secret").status == 200
