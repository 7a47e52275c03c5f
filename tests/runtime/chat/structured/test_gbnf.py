"""GBNF means what it means in llama.cpp, and no grammar takes all time or ends the process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.llama_grammar import LlamaGrammar
from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.structured.gbnf import lark_rules
from qwen35_gguf.runtime.chat.structured.token_grammars import byte_matcher, lark_grammar
from qwen35_gguf.runtime.llama.model import Model

STEPS = 40
USUAL = set(range(1, 0xE0)) - {0xC0, 0xC1}  # of UTF-8, up to two bytes of a character; no token has a zero
JSON = r"""# of llama.cpp's documentation, in short
root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array ::=
  "[" ws (
    value
    ("," ws value)*
  )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
GRAMMARS = (
    JSON,
    'root ::= "a" "bc" | "ab" "d"',
    'root ::= x "a"\nx ::= "a"*',
    'root ::= "a" "bc" root? | "ab" "d"',
    'root ::= ([0-9]+)? "x" [^a-y\\n]{2,3} .',
    'root ::= ("ab" | "a" ("b" | "é\\u00fc\\x41")+){1,2} "y"{0} "z"{2}',
    'root ::= greeting name "!"?\n\ngreeting ::= "Hi, " | # a comment\n  "Good " ("day" | "night")\n'
    "name ::= [A-Z] [a-z-]{1,}",
    'root ::= "(" root? ")" | [\\[\\]"-]',
)
# Each keeps llama.cpp busy, exhausts its memory, or ends the process.
BOMBS = {
    "groups": "root ::= " + "(" * 30000 + '"a"' + ")" * 30000,
    "open groups": "root ::= " + "(" * 60000,
    "nested optionals": "root ::= " + '("a" ' * 2000 + '"b"' + ")?" * 2000,
    "optionals": "root ::= " + '"a"? ' * 6000,
    "repetitions": 'root ::= ((("a"{1,2000}){1,2000}){1,2000}){1,2000}',
    "a repetition": 'root ::= "a"{999999999}',
    "many repetitions": 'root ::= "a"{99999999999999999999}',
    "stacks": "\n".join(
        ["root ::= r0", *(f"r{i} ::= r{i + 1} | r{i + 1} r{i + 1}" for i in range(30)), 'r30 ::= "a" | ""']
    ),
    "chain": "\n".join(["root ::= r0", *(f"r{i} ::= r{i + 1}" for i in range(5000)), 'r5000 ::= "a"']),
    "alternatives": "root ::= " + "|".join(['("a"|"b")*'] * 3000),
    "ambiguous": 'root ::= "a" | root root | root root root',
}


@pytest.fixture(scope="module")
def model(files: list[Path]) -> Iterator[Model]:
    with Model(files[0]) as loaded:
        yield loaded


@pytest.mark.parametrize("text", GRAMMARS)
def test_the_same_bytes_are_allowed_as_by_llama_cpp(model: Model, text: str) -> None:
    chance = np.random.default_rng(0)
    pieces = {token: model.piece(token) for token in range(model.n_vocab) if token not in model.vocabulary.tags}
    for _ in range(6):
        ours = byte_matcher(lark_grammar(lark_rules(text)))
        with LlamaGrammar(model.vocabulary, text) as theirs:
            for _ in range(STEPS):
                allowed = theirs.allowed().tolist()
                going = [token for token in allowed if pieces.get(token) and not model.ends(token)]
                assert allowed_bytes(ours) & USUAL == {pieces[token][0] for token in going} & USUAL
                going = [token for token in going if USUAL.issuperset(pieces[token])]
                assert ours.is_accepting() == any(model.ends(token) for token in allowed)
                if not going:
                    break
                token = int(chance.choice(going))
                theirs.accept(token)
                assert all(ours.consume_token(byte) for byte in pieces[token])


def allowed_bytes(matcher: Any) -> set[int]:
    if matcher.is_stopped():
        return set()
    mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    return set(np.flatnonzero(mask[:256]).tolist())


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_or_has_an_end(name: str) -> None:
    try:
        matcher = byte_matcher(lark_grammar(lark_rules(BOMBS[name])))
    except GrammarError:
        return
    for _ in range(50):
        matcher.compute_bitmask()
        if matcher.is_error() or matcher.is_stopped():
            break
        matcher.consume_token(ord("a"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("root ::= (", r"line 1 needs \) before ''"),
        ("nothing", "needs ::="),
        ('other ::= "a"', "no rule 'root'"),
        ("root ::= missing", "no rule 'missing'"),
        ('root ::= "a', "needs a character"),
        ('root ::= "a" }', "needs the end of the line"),
        ('root ::= "\\q"', "needs a character"),
        ("root ::= [z-a]", "a range that goes up"),
        ('root ::= "\\uD800"', "a character of Unicode"),
        ('root ::= "a"{3,2}', "wrong order"),
        ("\0", "needs a name"),
        ("", "no rule 'root'"),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        lark_rules(text)
