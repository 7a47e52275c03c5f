"""What a model answers, a user types or a file contains becomes text on the page, in a real browser: not HTML or code.

The model is played: /v1/chat/completions answers with what an attacker who wrote the prompt would want.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPT = "window.attacked = true"
TEXTS = (
    f"<script>{SCRIPT}</script>",
    f"<img src=x onerror='{SCRIPT}'>",
    f"<svg onload='{SCRIPT}'>",
    "<iframe srcdoc='<script>parent.attacked = true</script>'></iframe>",
    f"<a href='javascript:{SCRIPT}'>click</a>",
    f"[click](javascript:{SCRIPT})",
    f"[click](JaVaScRiPt:{SCRIPT})",
    f"[click](data:text/html,<script>{SCRIPT}</script>)",
    f"[click](vbscript:{SCRIPT})",
    f'![x](x" onerror="{SCRIPT})',
    f"![x](javascript:{SCRIPT})",
    f'[a]: x "title\\" onmouseover=\\"{SCRIPT}"\n\n[a]',
    f'```html"><script>{SCRIPT}</script>\n<script>{SCRIPT}</script>\n```',
    f"`<script>{SCRIPT}</script>`",
    f"$<img src=x onerror={SCRIPT}>$",
    f"$$\\href{{javascript:{SCRIPT}}}{{x}}$$",
    f"| <img src=x onerror={SCRIPT}> |\n|---|\n| <script>{SCRIPT}</script> |",
    "<style>@import 'http://127.0.0.1:1/x.css';</style>",
    "<base href='http://evil.example/'><form action=x><input name=attributes><input name=innerHTML></form>",
    "<div id=messages name=attacked>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=attacked=1&gt;'>",
    "\u202e<script>\u2066",
    "&lt;script&gt;attacked=1&lt;/script&gt;",
)


def played(page: Any, text: str) -> None:
    """Answer the next question with a text, as a stream."""
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "demo"}
    pieces = [
        {**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    body = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + "data: [DONE]\n\n"
    page.tab.unroute_all()
    page.tab.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body)
    )


def check(page: Any) -> None:
    """Nothing ran, nothing that could is in the page, and nothing was asked for elsewhere."""
    assert page.tab.evaluate("window.attacked") is None
    assert page.tab.evaluate("({}).attacked") is None
    inside = "#messages, #conversations, header, dialog"
    for selector in ("script", "iframe", "object", "embed", "form[action]", "base", "style", "link", "meta"):
        assert page.tab.locator(f":is({inside}) {selector}").count() == 0, selector
    attributes = page.tab.evaluate(
        "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).map(a => [a.name, a.value])"
    )
    for name, value in attributes:
        assert not name.startswith("on"), (name, value)
        assert not (name in ("href", "src", "action") and value.strip().lower().startswith(("javascript", "vbscript")))
        assert not (name == "href" and value.startswith("data:"))


@pytest.fixture
def asked(page: Any) -> list[str]:
    """The addresses that the page asks for."""
    found: list[str] = []
    page.tab.on("request", lambda request: found.append(request.url))
    return found


def test_answers_and_questions(page: Any, asked: list[str]) -> None:
    for text in TEXTS:
        played(page, text)
        page.ask(text)
        check(page)
        for link in page.tab.locator(".markdown a").all():
            assert link.get_attribute("href").startswith(("http://", "https://", "mailto:", "#"))
    own = page.server.url
    assert [url for url in asked if not url.startswith((own, "data:", "blob:"))] == []
    page.problems[:] = [problem for problem in page.problems if "Content Security Policy" not in problem]


def imported(title: str, /, **more: Any) -> dict[str, Any]:
    """A file of conversations, whose texts are all the same."""
    node = {"id": "n0", "parent": None, "created": 1, "role": "user", "content": title}
    answer = {"id": "n1", "parent": "n0", "created": 2, "role": "assistant", "content": title, "reasoning": title}
    conversation = {"id": "c", "title": title, "created": 1, "updated": 2, "system": title, "leaf": "n1"}
    conversation["nodes"] = {"n0": node, "n1": answer}
    return {"format": "qwen35-conversations", "version": 1, "conversations": [conversation | more]}


FILES = {
    "HTML": json.dumps(imported(f"<img src=x onerror='{SCRIPT}'>")),
    "a prototype": json.dumps(imported("x"))[:-1] + ', "__proto__": {"attacked": 1}}',
    "a prototype inside": json.dumps(imported("x")).replace('"title":', '"__proto__": {"attacked": 1}, "title":'),
    "a prototype of a node": json.dumps(imported("x")).replace('"role":', '"__proto__": {"attacked": 1}, "role":'),
    "a constructor": json.dumps(imported("x", constructor={"prototype": {"attacked": 1}})),
    "nodes by their names": json.dumps(imported("x")).replace('"n0"', '"__proto__"').replace('"n1"', '"constructor"'),
    "an id that is a path": json.dumps(imported("x", id="__proto__")),
    "numbers for texts": json.dumps(imported("x", title={"toString": "attacked"}, nodes=5)),
    "a circle": json.dumps(imported("x")).replace('"parent": null', '"parent": "n1"'),
}


@pytest.mark.parametrize("content", FILES.values(), ids=list(FILES))
def test_files_that_are_imported(content: str, open_page: Callable[..., Any]) -> None:
    page = open_page().open()
    file = {"name": "chats.json", "mimeType": "application/json", "buffer": content.encode()}
    page.put_file("input[type=file][accept*=json]", file)
    page.tab.wait_for_timeout(500)
    check(page)
    opener = page.tab.locator("#conversations .open")
    if opener.count():
        opener.first.click()
        page.tab.wait_for_timeout(300)
        check(page)
    assert page.tab.evaluate("Object.keys(Object.prototype).length") == 0


def test_the_address_of_the_page_changes_nothing(open_page: Callable[..., Any]) -> None:
    page = open_page().open()
    for tail in (f"#<img src=x onerror='{SCRIPT}'>", "#__proto__[attacked]=1", f"?q=<script>{SCRIPT}</script>"):
        page.tab.goto(f"{page.server.url}/{tail}")
        page.tab.wait_for_selector("body[data-ready]")
        check(page)


def test_the_page_cannot_be_framed_or_run_foreign_code(open_page: Callable[..., Any]) -> None:
    page = open_page()
    answer = page.tab.goto(f"{page.server.url}/")
    policy = answer.headers["content-security-policy"]
    for part in (
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ):
        assert part in policy
    assert "unsafe" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
