r"""Translate grammars in GBNF, llama.cpp's notation, to Lark rules for the mask's engine.

llama.cpp's own parser and its sets of stacks have no bounds: a few kilobytes of GBNF keep it busy for hours, or end the
process. The mask's engine has a budget for each step. A grammar without recursion becomes one regular expression;
another one becomes rules over single characters, so that no lexer decides where a word ends.

Source of the notation: llama.cpp grammars/README.md and src/llama-grammar.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from qwen35_gguf.errors import GrammarError

MAX_DEPTH = 100  # of groups
MAX_RULES = 500  # the engine follows a chain of rules by recursion in its own code, whose stack has an end
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_REPEAT = re.compile(r"[*+?]|\{\s*(\d{1,9})\s*(?:(,)\s*(\d{1,9})?\s*)?\}")
_CHARACTER = re.compile(
    r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([nrt\\\"\[\]]))|([^\\])", re.DOTALL
)
_SHORT = {"n": "\n", "r": "\r", "t": "\t"}
_EMPTY = '""'
# What certainly follows is not searched: a rule such as `root ::= "a" root` has no end of it.
_HEAD = '%llguidance {"no_forcing": true}\n'


@dataclass(frozen=True)
class _Name:
    """A rule that is referred to."""

    name: str


@dataclass
class _Reader:
    """Reads rules: each becomes pieces of Lark, with names of rules between them."""

    text: str
    at: int = 0
    rules: dict[str, list[str | _Name]] = field(default_factory=dict)

    def read(self) -> dict[str, list[str | _Name]]:
        """Read all rules."""
        self._skip(_LINES)
        while self.at < len(self.text):
            name = self._taken(_NAME, "a name")[0]
            self._skip(_SPACE)
            self._taken(re.compile("::="), "::=")
            self._skip(_LINES)
            self.rules[name] = self._alternatives(0)
            if self.at < len(self.text) and self.text[self.at] not in "\r\n":
                raise self._wrong("the end of the line")
            self._skip(_LINES)
        return self.rules

    def _alternatives(self, depth: int) -> list[str | _Name]:
        if depth > MAX_DEPTH:
            raise GrammarError(f"grammar: groups are nested more than {MAX_DEPTH} deep; use rules")
        found = self._sequence(depth)
        while self.text.startswith("|", self.at):
            self.at += 1
            self._skip(_LINES)
            found += [" | ", *self._sequence(depth)]
        return found

    def _sequence(self, depth: int) -> list[str | _Name]:
        found: list[str | _Name] = []
        while (atom := self._atom(depth)) is not None:
            self._skip(_LINES if depth else _SPACE)
            while repeat := _REPEAT.match(self.text, self.at):
                self.at = repeat.end()
                times = _repeated(repeat)
                atom = [_EMPTY] if times is None else ["(", *atom, ")", times]
                self._skip(_LINES if depth else _SPACE)
            found += [*atom, " "]
        return found or [_EMPTY]

    def _atom(self, depth: int) -> list[str | _Name] | None:
        """Read a literal, a class, a group or a name; None at the end of a sequence."""
        sign = self.text[self.at : self.at + 1]
        if sign == '"':
            self.at += 1
            characters = []
            while not self.text.startswith('"', self.at):
                characters.append(f"/{_escaped(self._character())}/")
            self.at += 1
            return ["(", " ".join(characters) or _EMPTY, ")"]
        if sign == "[":
            return [self._class()]
        if sign == "(":
            self.at += 1
            self._skip(_LINES)
            inside = self._alternatives(depth + 1)
            self._taken(re.compile(r"\)"), ")")
            return ["(", *inside, ")"]
        if sign == ".":
            self.at += 1
            return [r"/[\s\S]/"]
        name = _NAME.match(self.text, self.at)
        if name is None:
            return None
        self.at = name.end()
        return [_Name(name[0])]

    def _class(self) -> str:
        self.at += 1
        inverted = self.text.startswith("^", self.at)
        self.at += inverted
        found = []
        while not self.text.startswith("]", self.at):
            first = last = self._character()
            if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                last = self._character()
            if last < first:
                raise self._wrong("a range that goes up")
            found.append(_escaped(first) if first == last else f"{_escaped(first)}-{_escaped(last)}")
        self.at += 1
        if not found:
            raise self._wrong("a class with characters")
        return f"/[{'^' if inverted else ''}{''.join(found)}]/"

    def _character(self) -> str:
        found = self._taken(_CHARACTER, "a character")
        number = found[1] or found[2] or found[3]
        if not number:
            return _SHORT.get(found[4], found[4]) if found[4] else found[5]
        if int(number, 16) > 0x10FFFF or 0xD800 <= int(number, 16) < 0xE000:
            raise self._wrong("a character of Unicode")
        return chr(int(number, 16))

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def _taken(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self._wrong(what)
        self.at = found.end()
        return found

    def _wrong(self, what: str) -> GrammarError:
        line = self.text.count("\n", 0, self.at) + 1
        place = self.text[self.at : self.at + 20].split("\n")[0]
        return GrammarError(f"grammar: line {line} needs {what} before {place!r}; correct the GBNF")


def _repeated(repeat: re.Match[str]) -> str | None:
    """Return how often something comes; None: never."""
    if repeat[1] is None:
        return repeat[0]
    least, most = int(repeat[1]), repeat[3]
    if most is not None and int(most) < least:
        raise GrammarError(f"grammar: {repeat[0]} has its numbers in the wrong order; correct the GBNF")
    if repeat[2] is None:
        most = repeat[1]
    if most is not None and int(most) == 0:
        return None
    return f"{{{least}}}" if repeat[2] is None else f"{{{least},{most or ''}}}"


def _escaped(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"


def lark_rules(text: str) -> str:
    """Return a grammar in GBNF, whose start is `root`, as Lark rules.

    Raises:
        GrammarError: it is malformed, or refers to a rule that it does not have.

    """
    rules = _Reader(text).read()
    links = {name: {piece.name for piece in body if isinstance(piece, _Name)} for name, body in rules.items()}
    reached, waiting = {"root"}, ["root"]
    while waiting:
        name = waiting.pop()
        if name not in rules:
            raise GrammarError(f"grammar: there is no rule {name[:40]!r}; add it to the GBNF")
        waiting += links[name] - reached
        reached |= links[name]
    if len(reached) > MAX_RULES:
        raise GrammarError(f"grammar: {len(reached):,} rules are more than {MAX_RULES}; use fewer")
    regular = _without_cycle({name: links[name] for name in reached})
    numbers = {name: f"{'R' if regular else 'r'}{number}" for number, name in enumerate(rules)}

    def written(name: str) -> str:
        return "".join(numbers[piece.name] if isinstance(piece, _Name) else piece for piece in rules[name])

    return "".join(
        [
            _HEAD,
            f"start: {numbers['root']}\n",
            *(f"{numbers[name]}: {written(name)}\n" for name in rules if name in reached),
        ]
    )


def _without_cycle(links: dict[str, set[str]]) -> bool:
    """Report whether no rule leads back to itself."""
    left = {name: set(inner) for name, inner in links.items()}
    users: dict[str, list[str]] = {}
    for name, inner in links.items():
        for one in inner:
            users.setdefault(one, []).append(name)
    done = [name for name, inner in left.items() if not inner]
    for name in done:
        for user in users.get(name, ()):
            left[user].discard(name)
            if not left[user]:
                done.append(user)
    return len(done) == len(links)
