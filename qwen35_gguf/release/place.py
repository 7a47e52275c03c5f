"""Put the described files of a release into its folder, around what its publisher wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from qwen35_gguf.atomic_file import atomic_file
from qwen35_gguf.release import checksums, record
from qwen35_gguf.release import state as states
from qwen35_gguf.release.card import parts as card_parts
from qwen35_gguf.release.card.model_card import CARD_NAME
from qwen35_gguf.release.folder_check import read_card
from qwen35_gguf.release.plan import IMATRIX
from qwen35_gguf.release.state import State

REPLACED = (record.RECIPE, IMATRIX)  # checked before the work began


def place(folder: Path, state: State, made: Mapping[str, bytes], *, force: bool, say: Callable[[str], None]) -> None:
    """Write files that nobody has changed since they were made; others are kept, and the card is merged.

    Args:
        folder: of the release.
        state: gets what was written.
        made: the content of each file, by name.
        force: replace what was changed; of the card, what is between its marks.
        say: is called with what is kept.

    Raises:
        OutputError: a file cannot be written.

    """
    for name, content in made.items():
        target = folder / name
        if name == CARD_NAME:
            content = _merged(folder, state, content.decode(), say).encode()
        elif name not in REPLACED and not force and _is_changed(target, state.written.get(name, ""), content):
            say(f"note: {name} was edited and stays as it is; remove it to have it made again")
            continue
        with atomic_file(target) as file:
            file.write(content)
        state.written[name] = hashlib.sha256(content).hexdigest()
        states.save(folder, state)


def _is_changed(target: Path, known: str, content: bytes) -> bool:
    return target.exists() and checksums.digest(target) not in (known, hashlib.sha256(content).hexdigest())


def _merged(folder: Path, state: State, new: str, say: Callable[[str], None]) -> str:
    """Return the card: new, or around what the publisher wrote."""
    current = read_card(folder / CARD_NAME)
    merged = card_parts.merge(current, new, state.card) if current else new
    if current and not card_parts.has_parts(current):
        say(f"note: {CARD_NAME} has no parts between marks, and stays as it is; remove it to have it made again")
    elif current and merged != new:
        say(f"note: {CARD_NAME} was edited: its parts between the marks are made again, and the rest stays")
    state.card = new
    return merged
