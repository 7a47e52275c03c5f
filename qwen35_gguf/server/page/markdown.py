"""Render the Markdown of answers as HTML that is safe to show: block by block, without any HTML of the text itself."""

from __future__ import annotations

import functools
import html
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from qwen35_gguf.server.page import math_rules

MAX_HIGHLIGHTED = 40_000  # characters of a code block; a longer one has no colors
# Languages whose lexers take time linear in the code; other code is shown without colors.
_LANGUAGES = """
    bash c c# c++ cmake console cpp cs css csv cuda dart diff docker dockerfile elixir erlang fortran go golang
    graphql haskell html ini java javascript js json jsx julia kotlin latex lua make makefile matlab nasm nginx
    objective-c ocaml perl php powershell proto py python r rb rs ruby rust scala scheme sh shell sql swift tex toml
    ts tsx typescript xml yaml yml zig zsh
"""
LANGUAGES = frozenset(_LANGUAGES.split())
LINKS = ("https://", "http://", "mailto:")


@dataclass(frozen=True)
class Block:
    """A block at the top level of a document: the number of its first line, from 0, and its HTML."""

    line: int
    html: str


def render(text: str) -> list[Block]:
    """Render a document.

    A block that another one follows does not change when text is appended, except by the definition of a link's
    target. That is why a page that shows a growing text renders only what follows the last but one block again.

    Args:
        text: Markdown (CommonMark with tables and strikethrough); HTML in it is shown as text, images become links.

    """
    parser = _parser()
    environment: dict[str, Any] = {}
    blocks = []
    for group in _top_level(parser.parse(text, environment)):
        line = group[0].map[0] if group[0].map else 0
        blocks.append(Block(line, parser.renderer.render(group, parser.options, environment)))
    return blocks


def _top_level(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Split tokens into groups, each a block at the top level."""
    group: list[Token] = []
    depth = 0
    for token in tokens:
        group.append(token)
        depth += token.nesting
        if depth == 0:
            yield group
            group = []


@functools.cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=PageRenderer)
    parser.enable(["table", "strikethrough"])
    math_rules.add_to(parser)
    parser.validateLink = _allowed  # type: ignore[method-assign]
    return parser


def _allowed(url: str) -> bool:
    return url.strip().lower().startswith(LINKS)


class PageRenderer(RendererHTML):
    """Markdown-it's HTML, without inline styles, which the page's Content-Security-Policy forbids, and images."""

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        """Render a block of code with its language and a button."""
        del options, env
        words = tokens[idx].info.split()
        return _code_block(tokens[idx].content, words[0] if words else "")

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        """Render indented code as a block without language."""
        del options, env
        return _code_block(tokens[idx].content, "")

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        """Render a link to an image: the page loads nothing from elsewhere."""
        source = str(tokens[idx].attrs.get("src", ""))
        text = self.renderInlineAsText(tokens[idx].children, options, env) or source
        return f"{_link(source)}{html.escape(text)}</a>"

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        """Open a link, which leads to another tab and shows where it leads."""
        del options, env
        return _link(str(tokens[idx].attrs.get("href", "")))

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        """Open a cell of a table's head."""
        del options, env
        return _cell("th", tokens[idx])

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        """Open a cell of a table."""
        del options, env
        return _cell("td", tokens[idx])

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        """Open a table, which scrolls by itself where it is too wide, also by keyboard."""
        del tokens, idx, options, env
        return '<div class="table" role="region" aria-label="Table" tabindex="0"><table>\n'

    def table_close(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        """Close a table."""
        del tokens, idx, options, env
        return "</table></div>\n"

    def math_inline(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        """Render a formula within a line as its source."""
        del options, env
        return f'<span class="math">{html.escape(tokens[idx].content)}</span>'

    def math_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        """Render a formula of its own lines as its source."""
        del options, env
        return f'<div class="math">{html.escape(tokens[idx].content)}</div>\n'


def _link(url: str) -> str:
    quoted = html.escape(url)
    return f'<a href="{quoted}" title="{quoted}" target="_blank" rel="noopener noreferrer nofollow">'


def _cell(tag: str, token: Token) -> str:
    style = str(token.attrs.get("style", ""))
    side = style.removeprefix("text-align:")
    return f'<{tag} class="{side}">' if side in ("left", "center", "right") else f"<{tag}>"


def _code_block(code: str, language: str) -> str:
    label = html.escape(language[:30]) or "text"
    return (
        f'<figure class="code"><figcaption><span>{label}</span>'
        f'<button type="button" class="copy">Copy</button></figcaption>'
        f'<pre tabindex="0"><code>{_highlighted(code, language.lower())}</code></pre></figure>\n'
    )


@functools.lru_cache(maxsize=256)
def _highlighted(code: str, language: str) -> str:
    lexer = _lexer(language)
    if lexer is None or len(code) > MAX_HIGHLIGHTED:
        return html.escape(code)
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def _lexer(language: str) -> Lexer | None:
    if language not in LANGUAGES:
        return None
    try:
        lexer: Lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
    return lexer
