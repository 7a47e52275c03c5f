r"""Translate the patterns of JSON schemas, which are regular expressions of ECMAScript, to those of the mask's engine.

Where validators disagree about what a class matches (`\d` is ASCII in ECMAScript and Unicode in Python), the result
matches what both accept: positive classes are ASCII, negated ones exclude all of Unicode's. What cannot be expressed is
refused by name: look-around, back-references and word boundaries.

Sources: ECMA-262, 22.2 (RegExp); the syntax of the Rust crate regex-syntax.
"""

from __future__ import annotations

import re

from qwen35_gguf.errors import GrammarError

_SPACES = r"\x09-\x0d\x1c-\x20\x85\xa0\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}"
# What a class matches for certain, and what it may match.
_CLASSES = {
    "d": ("0-9", r"\p{Nd}"),
    "w": ("0-9A-Za-z_", r"\p{L}\p{N}\p{M}\p{Pc}_"),
    "s": (r" \t\n\r\x0b\x0c", _SPACES),
}
_SIMPLE = {"n": r"\n", "r": r"\r", "t": r"\t", "f": r"\x0c", "v": r"\x0b", "a": r"\x07"}
_ANCHORS = {"A": "^", "Z": "$", "z": "$"}
_META = r"\.+*?()|[]{}^$#&-~/"
_ANY = r"[^\n\r\u{2028}\u{2029}]"
_ALL = r"[\s\S]*"
_QUANTIFIER = re.compile(r"\{\d+(?:,\d*)?\}")
_GROUP = re.compile(r"\((?:\?(?:P?<[A-Za-z_]\w*>|:|[is]+\)|[is]+:))?")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")
_PROPERTY = re.compile(r"[pP](?:\{[\w=]+\}|[A-Z])")


def translate(pattern: str) -> str:
    """Return a pattern in the syntax of the mask's engine; it is not anchored, like the one that is given.

    Raises:
        GrammarError: the pattern is malformed, or has what the engine cannot express; the reason is given.

    """
    return _Translation(pattern).run()


def whole(pattern: str) -> str:
    """Return what a translated pattern asks of a whole text, without anchors.

    Raises:
        GrammarError: it has an anchor that is not at its beginning or end.

    """
    return "|".join(_anchored(part) for part in _alternatives(pattern))


def _anchored(part: str) -> str:
    begins, ends = part.startswith("^"), bool(re.search(r"(?<!\\)(?:\\\\)*\$$", part))
    inner = part[int(begins) : len(part) - int(ends)]
    if re.search(r"[$^]", re.sub(r"\\.|\[\^", "", inner)):
        raise GrammarError("an anchor inside of a pattern is not supported")
    return f"{'' if begins else _ALL}(?:{inner}){'' if ends else _ALL}"


def _alternatives(pattern: str) -> list[str]:
    """Split a translated pattern at the bars that are not inside of groups and classes."""
    parts, depth, at, start = [], 0, 0, 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            at += 1
        elif letter in "[(":
            depth += 1
        elif letter in "])":
            depth -= 1
        elif letter == "|" and not depth:
            parts.append(pattern[start:at])
            start = at + 1
        at += 1
    return [*parts, pattern[start:]]


class _Translation:
    """One pass over a pattern."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0

    def run(self) -> str:
        out: list[str] = []
        while self._at < len(self._text):
            out.append(self._next())
        return "".join(out)

    def _next(self) -> str:
        letter = self._text[self._at]
        if letter == "\\":
            return self._escape()
        if letter == "[":
            return self._class()
        if letter == "(":
            return self._group()
        if letter == "{":
            found = _QUANTIFIER.match(self._text, self._at)
            self._at = found.end() if found else self._at + 1
            return found[0] if found else r"\{"
        self._at += 1
        if letter == ".":
            return _ANY
        return letter if letter in "^$|*+?)" else _literal(letter)

    def _group(self) -> str:
        found = _GROUP.match(self._text, self._at)
        if self._text.startswith("(?", self._at) and (found is None or found[0] == "("):
            raise GrammarError(f"look-around or a flag ({self._text[self._at : self._at + 4]}...) is not supported")
        assert found is not None
        self._at = found.end()
        return "(" if "<" in found[0] else found[0]

    def _escape(self) -> str:
        """Translate an escape outside of a class."""
        kind = self._text[self._at + 1 : self._at + 2]
        if kind.lower() in _CLASSES and kind:
            self._at += 2
            sure, possible = _CLASSES[kind.lower()]
            return f"[{sure}]" if kind.islower() else f"[^{possible}]"
        if kind in _ANCHORS and kind:
            self._at += 2
            return _ANCHORS[kind]
        if kind in ("b", "B") and kind:
            raise GrammarError(rf"the word boundary \{kind} is not supported")
        if (kind.isdigit() and kind != "0") or kind == "k":
            raise GrammarError(rf"the back-reference \{kind} is not supported")
        return self._character_escape()

    def _character_escape(self) -> str:
        """Translate the escape of a character or of a property, which mean the same in a class and outside."""
        self._at += 1
        kind = self._text[self._at : self._at + 1]
        if found := _PROPERTY.match(self._text, self._at):
            self._at = found.end()
            return "\\" + found[0]
        if found := _HEX.match(self._text, self._at):
            self._at = found.end()
            return _code(self._paired(int(found[1] or found[2] or found[3], 16)))
        if kind == "c" and (letter := self._text[self._at + 1 : self._at + 2]).isalpha():
            self._at += 2
            return _code(ord(letter) % 32)
        self._at += 1
        if kind == "0" and not self._text[self._at : self._at + 1].isdigit():
            return r"\x00"
        if kind in _SIMPLE and kind:
            return _SIMPLE[kind]
        if not kind or kind.isalnum():
            raise GrammarError(rf"the escape \{kind} is not supported")
        return _literal(kind)

    def _paired(self, code: int) -> int:
        r"""Put the second half of a surrogate pair, written as `\uXXXX`, to the first."""
        if 0xD800 <= code < 0xDC00 and self._text[self._at : self._at + 1] == "\\":
            following = _HEX.match(self._text, self._at + 1)
            if following is not None and following[2] and 0xDC00 <= int(following[2], 16) < 0xE000:
                self._at = following.end()
                return 0x10000 + ((code - 0xD800) << 10) + int(following[2], 16) - 0xDC00
        if 0xD800 <= code < 0xE000:
            raise GrammarError(rf"the surrogate \u{code:04x} is not a character")
        return code

    def _class(self) -> str:
        self._at += 1
        negated = self._text.startswith("^", self._at)
        self._at += negated
        if self._text.startswith("]", self._at):
            raise GrammarError("the class [] is not supported")
        out = ["[^" if negated else "["]
        while not self._text.startswith("]", self._at):
            atom = self._atom(negated=negated)
            if self._text.startswith("-", self._at) and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                last = self._atom(negated=negated)
                if _is_set(atom) or _is_set(last):
                    raise GrammarError("a range of a class ends in a set")
                atom = f"{atom}-{last}"
            out.append(atom)
        self._at += 1
        return "".join(out) + "]"

    def _atom(self, *, negated: bool) -> str:
        if self._at >= len(self._text):
            raise GrammarError("a class is not closed")
        if self._text[self._at] != "\\":
            self._at += 1
            return _literal(self._text[self._at - 1])
        kind = self._text[self._at + 1 : self._at + 2]
        if kind.lower() in _CLASSES and kind:
            self._at += 2
            sure, possible = _CLASSES[kind.lower()]
            if kind.islower():
                return f"[{possible if negated else sure}]"
            return f"[^{sure if negated else possible}]"
        if kind == "b":
            self._at += 2
            return r"\x08"
        return self._character_escape()


def _is_set(atom: str) -> bool:
    return atom.startswith(("[", r"\p", r"\P"))


def _code(code: int) -> str:
    if code > 0x10FFFF:
        raise GrammarError(f"{code:x} is not a character")
    return rf"\u{{{code:x}}}"


def _literal(letter: str) -> str:
    return _code(ord(letter)) if letter < " " else f"\\{letter}" if letter in _META else letter


def literal(text: str) -> str:
    """Return the pattern of a text."""
    return "".join(map(_literal, text))
