"""Keys cannot be found piece by piece: a comparison does the same whatever the key, and however much of it is right.

Times are not measured, which would depend on the machine: it is counted what is compared, and how.
"""

from __future__ import annotations

import ast
import hmac
from collections.abc import Callable
from pathlib import Path

import pytest

from inputs.live_server import LiveServer
from qwen35_gguf.server import access
from qwen35_gguf.server.settings import ServerSettings

KEYS = ("first-key", "second-key", "k" * 200)
GUESSES = (
    "",
    "f",
    "first",
    "first-ke",
    "first-key ",
    "first-keyx",
    "FIRST-KEY",
    "second",
    "k",
    "k" * 199,
    "\u00ff",
    "x" * 9999,
)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """What is compared, and with what."""
    made: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, known: bytes) -> bool:
        made.append((given, known))
        return hmac_compare(given, known)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    return made


def ask(rules: access.AccessRules, guess: str) -> bool:
    from starlette.datastructures import Headers

    return rules._has_key({"type": "http"}, Headers({"authorization": f"Bearer {guess}"}))


@pytest.mark.parametrize("isolate", [False, True])
def test_every_guess_is_compared_alike_with_every_key(isolate: bool, compared: list[tuple[bytes, bytes]]) -> None:
    rules = access.AccessRules(lambda *_: None, ServerSettings(api_keys=KEYS, isolate=isolate))  # type: ignore[arg-type, return-value]
    for guess in (*GUESSES, *KEYS):
        compared.clear()
        assert ask(rules, guess) == (guess.strip() in KEYS)
        assert len(compared) == len(KEYS)
        assert {len(given) for given, _ in compared} == {len(known) for _, known in compared} == {32}


def test_nothing_else_compares_keys() -> None:
    """No `==`, `in` or slice of a key in the module that decides: only compare_digest."""
    tree = ast.parse(Path(access.__file__).read_text(encoding="utf-8"))
    function = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "_has_key")
    for node in ast.walk(function):
        if isinstance(node, ast.Compare):
            names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            assert names <= {"scheme", "self", "same"}, ast.unparse(node)
        assert not isinstance(node, ast.Subscript) or "given" not in ast.unparse(node)


@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
def test_a_refusal_is_the_same_whatever_the_guess(header: str, start: Callable[..., LiveServer]) -> None:
    guarded = start(api_keys=KEYS)
    answers = set()
    for guess in GUESSES:
        value = f"Bearer {guess}" if header == "Authorization" else guess
        answer = guarded.get("/v1/models", **{header: value.encode("latin-1").decode("latin-1")})
        answers.add((answer.status, answer.body, tuple(sorted(set(answer.headers) - {"date", "x-request-id"}))))
    assert len(answers - {answer for answer in answers if answer[0] == 200}) == 1
    assert next(iter(answers))[0] == 401 or len(answers) == 2


def test_a_key_is_nowhere_but_in_the_header(start: Callable[..., LiveServer]) -> None:
    """Not in an address, a cookie or a body, which land in logs and histories."""
    guarded = start(api_keys=KEYS)
    for path in ("/v1/models?api_key=first-key", "/v1/models?key=first-key", "/v1/models?access_token=first-key"):
        assert guarded.get(path).status == 401
    assert guarded.get("/v1/models", Cookie="api_key=first-key").status == 401
    assert guarded.post("/v1/chat/completions", {"api_key": "first-key", "messages": []}).status == 401
