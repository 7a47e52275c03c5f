"""The HTML that is made of answers: what it looks like, and that it is safe whatever the text is."""

from __future__ import annotations

import html.parser
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.server.page.markdown import render

ALLOWED = {
    "a": {"href", "title", "target", "rel"},
    "blockquote": set(),
    "br": set(),
    "button": {"type", "class"},
    "code": set(),
    "del": set(),
    "div": {"class", "role", "aria-label", "tabindex"},
    "em": set(),
    "figcaption": set(),
    "figure": {"class"},
    "hr": set(),
    "li": set(),
    "ol": {"start"},
    "p": set(),
    "pre": {"tabindex"},
    "s": set(),
    "span": {"class"},
    "strong": set(),
    "table": set(),
    "tbody": set(),
    "td": {"class"},
    "th": {"class"},
    "thead": set(),
    "tr": set(),
    "ul": set(),
    **{f"h{level}": set() for level in range(1, 7)},
}
ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "![x](data:image/svg+xml,<svg onload=alert(1)>)",
    "![x](https://example.com/leak?what=secret)",
    '[x](https://example.com "onmouseover=alert(1)")',
    "<https://example.com/\"onmouseover='alert(1)'>",
    '```"><script>alert(1)</script>\n</code></pre><script>alert(1)</script>\n```',
    "~~~html\n<script>alert(1)</script>\n~~~",
    "$</span><script>alert(1)</script>$",
    "\\[\n<img src=x onerror=alert(1)>\n\\]",
    "|a|\n|-|\n|<svg onload=alert(1)>|",
    "[a]: javascript:alert(1)\n\n[a]",
    "<a href='javascript:alert(1)'>x</a>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
]


class Strict(html.parser.HTMLParser):
    """Refuses elements, attributes and links that answers do not have."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        for name, value in attrs:
            assert name in ALLOWED[tag]
            if name == "href":
                assert value is not None
                assert value.lower().startswith(("https://", "http://", "mailto:"))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def whole(text: str) -> str:
    return "".join(block.html for block in render(text))


def check(text: str) -> None:
    parser = Strict(convert_charrefs=False)
    parser.feed(whole(text))
    parser.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_becomes_something_else_than_text(attack: str) -> None:
    check(attack)
    check(f"- > {attack}\n\n1. **{attack}**")


PIECES = st.one_of(
    st.sampled_from([*ATTACKS, "\n", "\n\n", "```", "`", "$", "|", "- ", "> ", "[", "](", "*"]), st.text()
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_no_mixture_becomes_something_else_than_text(pieces: list[str]) -> None:
    check("".join(pieces))


def test_blocks_are_rendered() -> None:
    text = "# Title\n\nSome *text* and ~~more~~.\n\n- a\n- b\n\n|x|y|\n|:-:|--:|\n|1|2|\n"
    assert [block.line for block in render(text)] == [0, 2, 4, 7]
    made = whole(text)
    for part in ("<h1>Title</h1>", "<em>text</em>", "<s>more</s>", "<li>a</li>", '<td class="right">2</td>'):
        assert part in made
    assert "style=" not in made


def test_code_has_its_language_colors_and_a_button() -> None:
    made = whole("```python\nx = 'a'\n```")
    assert '<figcaption><span>python</span><button type="button" class="copy">Copy</button>' in made
    assert "<span class=\"s1\">'a'</span>" in made
    assert "<code>&lt;b&gt;\n</code>" in whole("```unheard-of\n<b>\n```")


def test_images_become_links() -> None:
    assert whole("![a cat](https://example.com/cat.png)").startswith('<p><a href="https://example.com/cat.png"')


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("$x_1*y*z_2$", "$x_1*y*z_2$"),
        (r"so \(a_1 * b * c_2\) is", r"\(a_1 * b * c_2\)"),
        ("$$\na = b\n===\n$$", "$$\na = b\n===\n$$"),
        ("text\n\\[ \\frac{1}{2} \\]", "\\[ \\frac{1}{2} \\]"),
        ("- a\n  $$\n  x\n  $$", "$$\nx\n$$"),
    ],
)
def test_formulas_are_kept_as_they_are_written(text: str, formula: str) -> None:
    assert f'class="math">{formula}</' in whole(text)


@pytest.mark.parametrize("text", ["from $5 to $6", "a $ b $ c", "`$x$`", "```\n$$\nx\n$$\n```", r"\\(x\\)", "$$\nopen"])
def test_what_is_not_a_formula_stays_text(text: str) -> None:
    assert 'class="math"' not in whole(text)


DOCUMENT = """# Title

First *paragraph*,
two lines.

- a

  with more
- b

  ```python
  x = 1
  ```
1. one
2. two

> quote
lazy

```c
int x;

y;
```
|a|b|
|-|-|
|1|2|

$$
x
$$
end
"""


def test_a_block_before_another_does_not_change_any_more() -> None:
    complete = render(DOCUMENT)
    for length in range(1, len(DOCUMENT)):
        found = render(DOCUMENT[:length])
        assert found[:-1] == complete[: len(found[:-1])]


def test_the_rest_of_a_document_is_rendered_as_within_it() -> None:
    complete = render(DOCUMENT)
    lines = DOCUMENT.split("\n")
    for number, block in enumerate(complete):
        rest = render("\n".join(lines[block.line :]))
        assert [each.html for each in rest] == [each.html for each in complete[number:]]


@pytest.mark.parametrize(
    "piece", ["[", "![", "*a", "_a*", "`a", "$$\n", "$a ", "\\(", "[a](", "[a]: x\n", "|a|\n|-|\n", "<", "> "]
)
def test_hostile_texts_take_no_quadratic_time(piece: str) -> None:
    assert lines_run(piece * (4_000 // len(piece))) < 6 * lines_run(piece * (1_000 // len(piece)))  # linear: 4


def lines_run(text: str) -> int:
    """The number of lines of Python that rendering takes."""
    count = 0

    def trace(_frame: object, event: str, _argument: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        render(text)
    finally:
        sys.settrace(before)
    return count
