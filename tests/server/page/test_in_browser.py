"""The chat page in a real Chromium, with the demo model behind it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from inputs.live_server import LiveServer

pytestmark = pytest.mark.slow

ANSWER = """# A title

| a | b |
|---|---|
| 1 | 2 |

```python
print("<b>")
```

Then $x^2$ and [a link](https://example.com).
"""


def exported(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """A file that the page imports: a conversation of messages one after another."""
    nodes = {
        f"n{i}": {"id": f"n{i}", "parent": f"n{i - 1}" if i else None, "created": i, **message}
        for i, message in enumerate(messages)
    }
    conversation = {"id": "c", "title": "Imported", "created": 1, "updated": 2, "system": "", "nodes": nodes}
    content = {
        "format": "qwen35-conversations",
        "version": 1,
        "conversations": [conversation | {"leaf": list(nodes)[-1]}],
    }
    return {"name": "chats.json", "mimeType": "application/json", "buffer": json.dumps(content).encode()}


def red_square() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_conversation_is_answered_and_kept(page: Any) -> None:
    assert page.ask("Hello there")
    assert page.ask("What is the capital of France?")
    assert page.tab.locator(".message").count() == 4
    assert "reused" in page.tab.locator(".stats").last.inner_text()
    assert "tokens/s" in page.tab.locator(".stats").last.inner_text()
    assert "first token" in page.tab.locator(".stats").last.inner_text()
    before = page.tab.locator("#messages .markdown").all_inner_texts()
    page.open()
    page.tab.click("#conversations .open")
    page.tab.wait_for_selector(".markdown .block >> nth=1")
    assert page.tab.locator("#messages .markdown").all_inner_texts() == before
    assert page.tab.title() == "Hello there"


def test_thinking_is_folded_and_timed(open_page: Callable[..., Any]) -> None:
    page = open_page().open()
    page.set("[name=temperature]", "0")
    page.ask("Hello there")
    details = page.tab.locator("details.thinking")
    assert details.get_attribute("open") is None
    assert details.locator("summary").inner_text().startswith("Thought for ")
    details.locator("summary").click()
    assert details.locator(".thoughts").inner_text()


def test_an_answer_is_stopped_and_the_server_is_free(page: Any) -> None:
    page.set("[name=max_tokens]", "")
    page.set("#system", "")
    page.tab.route("**/v1/chat/completions", endless)
    page.send("Count")
    page.tab.wait_for_selector("#stop:not([hidden])")
    page.tab.keyboard.press("Escape")
    page.tab.wait_for_selector("text=Stopped.")
    page.tab.unroute("**/v1/chat/completions")
    assert page.ask("Hello there")


def endless(route: Any) -> None:
    """Never answer."""
    del route


def test_answering_again_and_editing_make_branches(page: Any) -> None:
    page.ask("Hello there")
    page.tab.click("[aria-label='Answer again']")
    page.answered()
    assert page.tab.locator(".assistant .branches").inner_text() == "2/2"
    page.tab.hover(".user .bubble")
    page.tab.click("[aria-label='Edit the question']")
    page.tab.fill("textarea.edit", "What is the capital of France?")
    page.tab.press("textarea.edit", "Enter")
    page.answered()
    assert page.tab.locator(".bubble").inner_text() == "What is the capital of France?"
    assert page.tab.locator(".user .branches").inner_text() == "2/2"
    page.tab.click(".user [aria-label='Earlier version']")
    assert page.tab.locator(".bubble").inner_text() == "Hello there"
    assert page.tab.locator(".assistant .branches").inner_text() == "2/2"
    page.tab.click(".assistant [aria-label='Earlier version']")
    assert page.tab.locator(".assistant .branches").inner_text() == "1/2"


def test_markdown_is_shown_while_it_comes_and_afterwards(page: Any) -> None:
    page.put_file("#import-file", exported([{"role": "user", "text": "Q"}, {"role": "assistant", "text": ANSWER}]))
    page.tab.wait_for_selector(".markdown h1")
    assert page.tab.locator(".markdown td").all_inner_texts() == ["1", "2"]
    assert page.tab.locator(".markdown .math").inner_text() == "$x^2$"
    assert page.tab.locator(".markdown code .nb").inner_text() == "print"
    page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.tab.click("button.copy")
    page.tab.wait_for_selector("button.copy >> text=Copied")
    assert page.tab.evaluate("navigator.clipboard.readText()") == 'print("<b>")\n'
    page.tab.wait_for_selector("button.copy >> text=/^Copy$/")  # as it was
    # A text that grows ends as the same blocks.
    grown = page.tab.evaluate(
        """async (text) => {
            const { GrowingText } = await import("/page/markdown.js");
            const box = document.createElement("div");
            const growing = new GrowingText(box);
            for (let end = 0; end < text.length; end += 7) {
                growing.update(text.slice(0, end));
                await new Promise((resolve) => setTimeout(resolve, 20));
            }
            await growing.finish(text);
            return box.innerHTML;
        }""",
        ANSWER,
    )
    assert grown == page.tab.locator(".markdown").inner_html()


def test_images_are_pasted_dropped_and_seen(page: Any) -> None:
    encoded = base64.b64encode(red_square()).decode()
    for kind in ("paste", "drop"):
        page.tab.evaluate(
            """([kind, encoded]) => {
                const bytes = Uint8Array.from(atob(encoded), (one) => one.charCodeAt(0));
                const data = new DataTransfer();
                data.items.add(new File([bytes], "red.png", { type: "image/png" }));
                const event = kind === "paste"
                    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
                    : new DragEvent("drop", { dataTransfer: data, bubbles: true });
                document.body.dispatchEvent(event);
            }""",
            [kind, encoded],
        )
    page.tab.wait_for_selector("#attachments li >> nth=1")
    page.tab.click("[aria-label='Remove red.png'] >> nth=0")
    assert page.tab.locator("#attachments li").count() == 1
    assert "red" in page.ask("What color is it?").lower()
    assert page.tab.locator(".media img").count() == 1
    page.put_file("#attach-file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
    page.tab.wait_for_selector("#notice >> text=neither an image nor a video")


def test_a_video_is_dropped_and_sent(page: Any) -> None:
    page.tab.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["bytes of a clip"], "clip.webm", { type: "video/webm" }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }"""
    )
    page.tab.wait_for_selector("#attachments li")
    page.tab.route("**/v1/chat/completions", lambda route: answer_with(route, {"content": "A clip."}))
    with page.tab.expect_request("**/v1/chat/completions") as caught:
        page.ask("What happens?")
    video, text = sorted(
        caught.value.post_data_json["messages"][-1]["content"], key=lambda part: part["type"] == "text"
    )
    encoded = base64.b64encode(b"bytes of a clip").decode()
    assert video == {"type": "video_url", "video_url": {"url": f"data:video/webm;base64,{encoded}"}}
    assert text["text"] == "What happens?"
    assert page.tab.locator(".media video").count() == 1


def test_drafts_and_an_end_by_repetition_are_shown(page: Any) -> None:
    timings = {"loop": "answer", "drafted": 4, "accepted": 3, "seconds": 1.0}
    page.tab.route("**/v1/chat/completions", lambda route: answer_with(route, {"content": "ab ab"}, timings=timings))
    page.ask("Hello")
    assert page.tab.locator(".assistant .note").inner_text() == "Ended, because it repeated itself."
    assert "drafts 75 %" in page.tab.locator(".stats").inner_text()


def answer_with(route: Any, delta: dict[str, Any], **more: Any) -> None:
    """Answer with one piece and its end, as a server does."""
    chunks = [
        {"choices": [{"index": 0, "delta": delta}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}], **more},
    ]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    route.fulfill(status=200, content_type="text/event-stream", body=body)


def test_settings_reach_the_request(page: Any) -> None:
    page.set("#system", "Answer briefly.")
    page.set("[name=seed]", "7")
    with page.tab.expect_request("**/v1/chat/completions") as caught:
        page.ask("Hello there")
    sent = caught.value.post_data_json
    assert sent["messages"][0] == {"role": "system", "content": "Answer briefly."}
    assert (sent["seed"], sent["temperature"], sent["max_tokens"]) == (7, 0, 40)
    assert (sent["reasoning_effort"], sent["stream"]) == ("none", True)
    page.tab.click("#thinking")
    page.tab.select_option("#effort", "low")
    with page.tab.expect_request("**/v1/chat/completions") as caught:
        page.ask("Hello")
    assert caught.value.post_data_json["reasoning_effort"] == "low"


def test_conversations_are_exported_imported_found_and_deleted(page: Any, tmp_path: Path) -> None:
    answer = page.ask("Hello there")
    with page.tab.expect_download() as caught:
        page.tab.click("#export-all")
    file = tmp_path / "chats.json"
    caught.value.save_as(file)
    page.tab.hover("#conversations li:not(.age)")
    page.tab.click("[aria-label='Delete \"Hello there\"']")
    page.tab.click("#confirm-yes")
    page.tab.wait_for_selector("text=No conversations yet")
    page.put_file("#import-file", file)
    page.tab.wait_for_selector(".markdown .block")
    assert page.tab.locator(".markdown").inner_text() == answer
    page.tab.fill("#find", "hello")
    assert page.tab.locator("#conversations .open").count() == 1
    page.tab.fill("#find", "goodbye")
    assert page.tab.locator("#conversations .open").count() == 0


@pytest.mark.parametrize(
    "content", [b"no JSON", b"{}", b"[]", b'{"format": "qwen35-conversations", "conversations": [1]}']
)
def test_a_file_of_something_else_is_refused(page: Any, content: bytes) -> None:
    page.put_file("#import-file", {"name": "a.json", "mimeType": "application/json", "buffer": content})
    page.tab.wait_for_selector("#notice:not([hidden])")
    assert page.tab.locator(".message").count() == 0


ATTACKS = [
    "<script>document.title='attacked'</script>",
    "<img src=x onerror=\"document.title='attacked'\">",
    "[click](javascript:document.title='attacked')",
    "```html\n<svg onload=\"document.title='attacked'\">\n```",
    "</textarea><script>document.title='attacked'</script>",
]


def test_attacks_in_an_imported_conversation_stay_text(page: Any) -> None:
    attack = "\n\n".join(ATTACKS)
    user = {"role": "user", "text": attack, "media": [{"kind": "image", "url": "javascript:alert(1)", "name": attack}]}
    answer = {
        "role": "assistant",
        "text": attack,
        "reasoning": attack,
        "error": attack,
        "model": attack,
        "stats": {"tokens": attack},
    }
    odd = {"role": "assistant", "text": {"html": attack}, "__proto__": {"x": 1}, "parent": "n1"}
    page.put_file("#import-file", exported([user | {"media": attack}, odd, user, answer]))
    page.tab.wait_for_selector(".markdown .block")
    page.tab.click(".assistant:last-child details.thinking summary")
    page.tab.wait_for_timeout(300)
    assert "attacked" not in page.tab.title() or "<script>" in page.tab.title()
    assert (
        page.tab.evaluate("document.querySelectorAll('#messages script, #messages svg[onload], #messages img').length")
        == 0
    )
    assert page.tab.evaluate(
        "[...document.querySelectorAll('#messages a')].every((a) => /^(https?|mailto):/.test(a.href))"
    )
    assert page.tab.evaluate("({}).x") is None


def test_attacks_in_questions_and_answers_stay_text(page: Any) -> None:
    def repeat(route: Any) -> None:
        chunks = [
            {"choices": [{"index": 0, "delta": {"content": part, "reasoning_content": part}}]} for part in ATTACKS
        ]
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.tab.route("**/v1/chat/completions", repeat)
    for attack in ATTACKS:
        page.ask(attack)
    assert page.tab.evaluate("document.querySelectorAll('#messages script, #messages img').length") == 0
    assert page.tab.locator(".bubble").all_inner_texts() == ATTACKS
    assert page.tab.title() != "attacked"


def test_html_from_elsewhere_than_the_server_is_refused(page: Any) -> None:
    """Trusted Types: even a mistake in the page's own code could not put HTML into it."""
    with pytest.raises(Exception, match="TrustedHTML"):
        page.tab.evaluate("document.body.innerHTML = '<b>x</b>'")
    page.problems.clear()


def test_a_missing_key_is_asked_for(open_page: Callable[..., Any], start: Callable[..., LiveServer]) -> None:
    page = open_page(start(api_keys=("secret",)))
    page.tab.goto(f"{page.server.url}/")
    page.tab.wait_for_selector("#settings[open]")
    assert page.tab.evaluate("document.activeElement.id") == "key"
    page.tab.fill("#key", "secret")
    page.tab.keyboard.press("Tab")
    page.tab.wait_for_selector("#model option", state="attached")
    page.tab.keyboard.press("Escape")
    page.switch_thinking_off()
    assert page.ask("Hello there")
    page.problems.clear()  # the browser logs the answers with 401


def test_an_error_of_the_server_is_shown_and_the_question_is_kept(page: Any) -> None:
    page.set("[name=max_tokens]", "")
    page.send("word " * 6000)
    page.tab.wait_for_selector(".note.error")
    assert "context" in page.tab.locator(".note.error").inner_text()
    assert page.tab.locator(".bubble").count() == 1
    page.problems.clear()


def test_everything_is_reached_by_keyboard_and_has_a_name(page: Any) -> None:
    page.ask("Hello there")
    page.tab.keyboard.press("ArrowUp")
    assert page.tab.evaluate("document.activeElement.className") == "edit"
    page.tab.keyboard.press("Escape")
    page.tab.keyboard.press("Alt+KeyN")
    assert page.tab.locator(".message").count() == 0
    assert page.tab.evaluate("document.activeElement.id") == "question"
    page.tab.keyboard.press("Alt+Comma")
    assert page.tab.locator("#settings[open]").count() == 1
    page.tab.keyboard.press("Escape")
    nameless = page.tab.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, a[href]")].filter((each) => !(
            each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length || each.type === "file"
        )).map((each) => each.outerHTML)"""
    )
    assert nameless == []
    assert page.tab.locator("#status").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1280, "dark"), (1280, "light")])
def test_nothing_is_wider_than_the_window_and_text_is_readable(
    open_page: Callable[..., Any], width: int, scheme: str
) -> None:
    page = open_page(viewport={"width": width, "height": 740}, color_scheme=scheme).open()
    wide = ANSWER + "\n" + "word" * 200 + "\n\n|" + "column|" * 20 + "\n|" + "-|" * 20 + "\n"
    page.put_file("#import-file", exported([{"role": "user", "text": "x" * 300}, {"role": "assistant", "text": wide}]))
    page.tab.wait_for_selector(".markdown h1")
    for place in ("document.documentElement", "document.getElementById('scroll')"):
        assert page.tab.evaluate(f"{place}.scrollWidth - {place}.clientWidth") == 0
    contrasts = page.tab.evaluate(
        """() => {
            const canvas = document.createElement("canvas").getContext("2d");
            const light = (color) => {
                canvas.fillStyle = color;
                canvas.fillRect(0, 0, 1, 1);
                const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((one) => {
                    const part = one / 255;
                    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
                });
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const ground = light(getComputedStyle(document.body).backgroundColor);
            return ["body", ".foot", ".markdown a", ".markdown p", "#question"].map((name) => {
                const ink = light(getComputedStyle(document.querySelector(name)).color);
                return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
            });
        }"""
    )
    assert min(contrasts) >= 4.5


def test_nothing_is_asked_from_elsewhere(page: Any) -> None:
    asked: list[str] = []
    page.tab.on("request", lambda request: asked.append(request.url))
    page.open()
    page.put_file(
        "#import-file",
        exported([{"role": "user", "text": "Q"}, {"role": "assistant", "text": "![x](https://example.com/x.png)"}]),
    )
    page.tab.wait_for_selector(".markdown a")
    page.ask("Hello there")
    assert len(asked) > 10
    assert all(url.startswith((page.server.url, "data:", "blob:")) for url in asked)
