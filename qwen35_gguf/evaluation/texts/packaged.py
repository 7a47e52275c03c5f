"""The packaged texts.

A packaged text is two files: NAME.txt, passages separated by lines of `%%`, and NAME_chats.jsonl, one conversation per
line, which the model's chat template renders.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from itertools import zip_longest
from typing import Any

CALIBRATION, EVALUATION = "calibration", "evaluation"
SEPARATOR = "\n%%\n"

Render = Callable[[list[dict[str, Any]]], str]


def packaged_text(name: str, render: Render | None) -> str:
    """Return a packaged text: prose in many languages, code, tables, numbers, chats.

    Args:
        name: CALIBRATION or EVALUATION; the two have no passage in common.
        render: renders a conversation with the model's template; None leaves the conversations out.

    """
    folder = resources.files("qwen35_gguf.evaluation.texts")
    passages = folder.joinpath(f"{name}.txt").read_text(encoding="utf-8").strip().split(SEPARATOR)
    if render is None:
        return "\n\n".join(passages)
    lines = folder.joinpath(f"{name}_chats.jsonl").read_text(encoding="utf-8").splitlines()
    chats = [render(json.loads(line)["messages"]) for line in lines]
    step = max(1, len(passages) // len(chats))
    groups = ["\n\n".join(passages[start : start + step]) for start in range(0, len(passages), step)]
    return "\n\n".join(text for pair in zip_longest(groups, chats, fillvalue="") for text in pair if text)
