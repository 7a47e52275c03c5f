"""Say in words why a prompt was evaluated again: which words of which message changed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwen35_gguf.runtime.engine.forest.prefix_cache import common_prefix
from qwen35_gguf.runtime.engine.forest.reuse import PromptReuse
from qwen35_gguf.runtime.engine.media_chunk import Prompt
from qwen35_gguf.runtime.llama.model import Model

SHOWN = 60  # characters of a change
STEM = re.compile(r"\S{1,20}$")  # of the word that changed


def describe_miss(model: Model, prompt: Prompt, reuse: PromptReuse) -> str:
    """Return which change of a prompt cost what was known of it, in one line; empty if none did.

    Args:
        model: whose tokens the items are.
        prompt: its items.
        reuse: what became of it.

    """
    change = reuse.divergence
    if change is None:
        return ""
    before = _text(model, prompt[change.begin : change.at])
    if change.message:  # the text of a message begins after the line with its role
        before = before.partition("\n")[2]
    stem = STEM.search(before)
    word = stem[0] if stem else ""
    known, given = (word + _text(model, part) for part in (change.known, change.given))
    shared = common_prefix(known[::-1], given[::-1])
    known, given = (_short(text[: len(text) - shared]) for text in (known, given))
    place = f"message {change.message}, " if change.message else ""
    what = f"{place}character {len(before) - len(word)}: {known!r} became {given!r}"
    return f"{what}: {reuse.tokens - reuse.reused:,} tokens evaluated again"


def _text(model: Model, items: Sequence[object]) -> str:
    parts = [model.piece(item) if isinstance(item, int) else b"[image]" for item in items]
    return b"".join(parts).decode("utf-8", "replace")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"
