r"""Rules of Markdown for formulas: `$...$`, `\(...\)`, `$$...$$` and `\[...\]`, which are kept as they are written."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

# How far the end of a formula is searched; without a bound, text of many beginnings takes quadratic time.
MAX_CHARACTERS = 1_000
MAX_LINES = 100
DISPLAYED = (("$$", "$$"), ("\\[", "\\]"))
INLINE = (*DISPLAYED, ("\\(", "\\)"), ("$", "$"))


def add_to(parser: MarkdownIt) -> None:
    """Let a parser make tokens `math_inline` and `math_block` of formulas."""
    parser.inline.ruler.before("escape", "math_inline", _inline)
    parser.block.ruler.before("fence", "math_block", _block, {"alt": ["paragraph", "reference", "blockquote", "list"]})


def _inline(state: StateInline, silent: bool) -> bool:
    text, start = state.src, state.pos
    if text[start] not in "$\\":
        return False
    for opening, closing in INLINE:
        if not text.startswith(opening, start):
            continue
        body = start + len(opening)
        end = text.find(closing, body, min(state.posMax, body + MAX_CHARACTERS))
        if end <= body or (closing == "$" and not _single(text, body, end)):
            return False
        if not silent:
            state.push("math_inline", "", 0).content = text[start : end + len(closing)]
        state.pos = end + len(closing)
        return True
    return False


def _single(text: str, body: int, end: int) -> bool:
    """Tell formulas from prices, as pandoc does: no space inside of the signs, no digit after the second."""
    return not text[body].isspace() and not text[end - 1].isspace() and not text[end + 1 : end + 2].isdigit()


def _block(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    if state.is_code_block(start_line):
        return False
    start = state.bMarks[start_line] + state.tShift[start_line]
    closing = next((closing for opening, closing in DISPLAYED if state.src.startswith(opening, start)), None)
    if closing is None:
        return False
    last = _last_line(state, start_line, min(end_line, start_line + MAX_LINES), closing)
    if last is None:
        return False
    if not silent:
        token = state.push("math_block", "", 0)
        token.content = state.getLines(start_line, last + 1, state.blkIndent, False).strip()
        token.map = [start_line, last + 1]
        state.line = last + 1
    return True


def _last_line(state: StateBlock, start_line: int, end_line: int, closing: str) -> int | None:
    """Find the line that ends with the closing sign; on the first one, behind the opening sign."""
    for line in range(start_line, end_line):
        begin = state.bMarks[line] + state.tShift[line]
        if line > start_line and state.sCount[line] < state.blkIndent and begin < state.eMarks[line]:
            return None
        text = state.src[begin + (2 if line == start_line else 0) : state.eMarks[line]].rstrip()
        if text.endswith(closing):
            return line
        if closing in text:
            return None
    return None
