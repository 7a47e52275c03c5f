"""Changes of inputs: bytes, words, and entries of what is JSON."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence

from inputs.json_damage import VALUES, paths, replaced

NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)
PIECE = 64  # bytes that are removed, repeated or moved


def mutated(data: bytes, chance: random.Random, words: Sequence[str] = (), longest: int = 4096) -> bytes:
    """Change an input in one to four places."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        data = (chance.random() < 0.4 and _json(data, chance)) or _bytes(data, chance, words)
    return data[:longest]


def _json(data: bytes, chance: random.Random) -> bytes | None:
    """Replace an entry of JSON by a value of another type, repeat or remove it; None if it is not JSON."""
    try:
        value = json.loads(data)
        found = list(paths(value))
        where = chance.choice(found)
        new = chance.choice([*VALUES.values(), *(chance.choice(found) for _ in range(3))])
        return json.dumps(replaced(value, where, new)).encode()
    except (ValueError, RecursionError, KeyError, IndexError, TypeError):
        return None


def _bytes(data: bytes, chance: random.Random, words: Sequence[str]) -> bytes:
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + chance.randrange(1, PIECE))
    kind = chance.randrange(8 if words else 7)
    if kind == 0:
        return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + data[end:]
    if kind == 2:
        return data[:at] + data[at:end] * chance.choice((2, 3, 50)) + data[end:]
    if kind == 3:
        return data[:at]
    if kind == 4:
        number = chance.choice(NUMBERS) + chance.choice((-1, 0, 1))
        packed = struct.pack("<Q", number % (1 << 64))[: chance.choice((1, 2, 4, 8))]
        return data[:at] + packed + data[at + len(packed) :]
    if kind == 5:
        other = chance.randrange(len(data) + 1)
        return data[:other] + data[at:end] + data[other:]
    if kind == 6:
        digits = str(chance.choice(NUMBERS)).encode()
        return data[:at] + chance.choice((digits, b"-" + digits, b"1e999", b"nan")) + data[at:]
    return data[:at] + chance.choice(words).encode() + data[chance.choice((at, end)) :]
