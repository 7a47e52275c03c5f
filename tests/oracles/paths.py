"""Where the checkout and its trained tiny model are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ROOT / "examples" / "tiny-qwen3.5"
TEMPLATES = ROOT / "tests" / "inputs" / "chat_templates"
