"""Files of rules for answers: grammars and JSON schemas, within a size, as text."""

from __future__ import annotations

from pathlib import Path

from qwen35_gguf.errors import GrammarError

LARGEST = 1 << 20  # bytes; compiled rules may have a million bytes of automata


def read_rules(path: Path, what: str) -> str:
    """Return the text of a file, which may be a pipe; a byte order mark is left out.

    Args:
        path: the file.
        what: it should hold, for messages.

    Raises:
        GrammarError: it cannot be read, is not UTF-8, or is larger than a mebibyte.

    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise GrammarError(f"{path}: cannot be read ({error.strerror or error}); name a file with {what}") from None
    if len(data) > LARGEST:
        raise GrammarError(f"{path}: is larger than {LARGEST >> 20} MiB; simplify it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GrammarError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start:,}); save it as such") from None
