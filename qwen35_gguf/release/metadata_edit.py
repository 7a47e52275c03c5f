"""Change single metadata entries of a GGUF file, in place or in a copy, and leave everything else as it is.

A file is patched in place only if the new header, padded, is as long as the old one; then only the bytes that differ
are written, and an interrupted change is finished by the next command. Otherwise the file is copied with its new
header, and replaces the old one when it is complete.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gguf import GGUFValueType

from qwen35_gguf.atomic_file import check_output, check_space, disk_errors, pending_file
from qwen35_gguf.convert import metadata_keys as tables
from qwen35_gguf.convert.tokenizer.special_ids import ADD_TOKEN, SPECIAL_IDS
from qwen35_gguf.errors import GgufError, MetadataError
from qwen35_gguf.gguf_file import header_change
from qwen35_gguf.gguf_file.format import ALIGNMENT_KEY
from qwen35_gguf.gguf_file.header import GgufHeader, encode_header
from qwen35_gguf.gguf_file.keyvalue import ARRAY, STRING, KeyValue
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.gguf_file.shards import SPLIT_KEYS
from qwen35_gguf.gguf_file.writer import copy_bytes

# They describe the layout of the file, which does not change.
PROTECTED = (*SPLIT_KEYS, ALIGNMENT_KEY)
STRUCTURAL = (
    "general.architecture",
    "general.quantization_version",
    *(f"tokenizer.ggml.{name}" for name in ("model", "pre", "tokens", "token_type", "scores", "merges")),
)
FLOATS = (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64)


class Kind(NamedTuple):
    """The type of an entry; `element` is that of an array's elements."""

    type: GGUFValueType
    element: GGUFValueType | None = None

    def __str__(self) -> str:
        if self.element is not None:
            return f"array[{self.element.name.lower()}]"
        return self.type.name.lower()


def parse_kind(text: str) -> Kind:
    """Parse the name of a type: `uint32`, `string`, `array[int32]`.

    Raises:
        MetadataError: it is not a type.

    """
    found = re.fullmatch(r"array\[(\w+)\]|(\w+)", text.lower())
    name = ((found[1] or found[2]) if found else "").upper()
    if name not in GGUFValueType.__members__ or name == "ARRAY":
        known = ", ".join(kind.name.lower() for kind in GGUFValueType if kind != ARRAY)
        raise MetadataError(f"--type {text}: is not a type; choose one of {known}, or array[one of them]")
    kind = GGUFValueType[name]
    return Kind(ARRAY, kind) if found and found[1] else Kind(kind)


def known_kind(key: str, arch: str) -> Kind | None:
    """Return the type that `qwen35 convert` writes for a key; None for a key that it does not write."""
    rows = (*tables.TEXT_KEYS, *tables.FEED_FORWARD_KEYS["qwen35moe"], *tables.VISION_KEYS, *tables.SAMPLING_KEYS)
    kinds = {row.key.format(arch=arch): Kind(row.type, row.element) for row in rows}
    kinds |= {name: Kind(GGUFValueType.UINT32) for name in SPECIAL_IDS.values()}
    kinds |= {name: Kind(GGUFValueType.BOOL) for name in ADD_TOKEN.values()}
    kinds |= {name: Kind(GGUFValueType.UINT32) for name in ("general.file_type", "tokenizer.ggml.eot_token_id")}
    if key in kinds:
        return kinds[key]
    strings = ("tokenizer.chat_template", "tokenizer.ggml.pre", "tokenizer.ggml.model")
    return Kind(STRING) if key in strings or key.startswith("tokenizer.chat_template.") else None


def check_harmless(layout: GgufHeader, key: str) -> None:
    """Refuse a key that describes the tensors or the vocabulary: with another value the file no longer loads, or errs.

    Raises:
        MetadataError: it does.

    """
    arch = str(layout.value("general.architecture", ""))
    rows = (*tables.TEXT_KEYS, *tables.FEED_FORWARD_KEYS["qwen35moe"], *tables.VISION_KEYS)
    structural = {row.key.format(arch=arch) for row in rows} - {f"{arch}.context_length"}
    if key in structural or key in STRUCTURAL or key.startswith(f"{arch}.ssm."):
        raise MetadataError(f"{key}: describes the tensors or the vocabulary; use --force if you know that it is wrong")


def new_entry(layout: GgufHeader, key: str, text: str, kind: Kind | None = None) -> KeyValue:
    """Make an entry from text.

    Args:
        layout: the file; an existing key keeps its type.
        key: the entry's name.
        text: the value: a number, true or false, any text for a string; JSON for an array.
        kind: the type of a new key; by default that of `known_kind`, or a string if the text is neither a number nor
            JSON.

    Raises:
        MetadataError: the text is not a value of that type, the type is needed, or the key is protected.

    """
    _check_free(key)
    old = layout.find(key)
    if kind is None and old is not None:
        kind = Kind(old.type, old.element)
    if kind is None:
        kind = known_kind(key, str(layout.value("general.architecture", "")))
    if kind is None:
        if _looks_typed(text):
            raise MetadataError(f"{key}: is new, and {text[:40]!r} may be a number or text; set its type with --type")
        kind = Kind(STRING)
    try:
        return KeyValue.of(key, _parse(text, kind), kind.type, kind.element)
    except (ValueError, struct.error, OverflowError, RecursionError):
        raise MetadataError(f"{key}: {text[:60]!r} is not a valid {kind}") from None


def change(
    file: Path,
    *,
    replace: Sequence[KeyValue] = (),
    remove: Sequence[str] = (),
    copy: Path | None = None,
    force: bool = False,
) -> Path:
    """Replace or add entries and remove others.

    Args:
        file: the GGUF file; of a set of shards, the first.
        replace: entries that replace those of the same key, or are added at the end.
        remove: keys of entries to be removed.
        copy: the file to be written; None: the file itself is changed.
        force: replace an existing copy.

    Returns:
        The changed file.

    Raises:
        MetadataError: a key to be removed does not exist, or a key is protected.
        GgufError: the file is damaged, or a link.
        OutputError: the copy exists already, cannot be written, or there is no space.

    """
    header_change.finish(file)
    layout = read_header(file)
    for key in (*remove, *(entry.key for entry in replace)):
        _check_free(key)
    for key in remove:
        if layout.find(key) is None:
            raise MetadataError(f"{file}: has no {key}{_similar(layout, key)}")
    changed = {entry.key: entry for entry in replace}
    entries = [changed.pop(entry.key, entry) for entry in layout.entries if entry.key not in remove]
    entries += changed.values()
    header = encode_header(entries, layout.tensors, layout.alignment, layout.version)
    if copy is not None and (copy.is_symlink() or os.path.realpath(copy) != os.path.realpath(file)):
        check_output(copy, inputs=[file], force=force)
        _rewrite(layout, header, copy, force=force)
        return copy
    if file.is_symlink():
        raise GgufError(f"{file}: is a link to {file.resolve()}; name that file, or make a copy with -o")
    if len(header) == layout.data_start:
        _patch(layout, header)
    else:
        _rewrite(layout, header, file, force=True)
    return file


def _check_free(key: str) -> None:
    if key in PROTECTED:
        raise MetadataError(f"{key}: describes the layout and cannot be changed; use `qwen35 split` or `qwen35 merge`")


def _patch(layout: GgufHeader, header: bytes) -> None:
    """Write the bytes of the header that differ."""
    try:
        header_change.replace(layout.path, header)
    except PermissionError:
        raise MetadataError(f"{layout.path}: is not writable; make a copy with -o") from None
    except OSError as error:
        raise MetadataError(f"{layout.path}: cannot be written ({error.strerror}); make a copy with -o") from None


def _rewrite(layout: GgufHeader, header: bytes, target: Path, *, force: bool) -> None:
    rest = layout.size - layout.data_start
    with pending_file(target, force=force) as made, layout.path.open("rb") as source:
        check_space(target.parent, len(header) + rest)
        source.seek(layout.data_start)
        with disk_errors(made.part):
            made.file.write(header)
            copy_bytes(source, made.file, rest, layout.path)
            shutil.copymode(layout.path, made.part)
        made.finish()
        made.publish()


def _parse(text: str, kind: Kind) -> Any:
    """Read a value of a type from text; raises ValueError where it is none."""
    if kind.element is None:
        return _checked(text if kind.type == STRING else _number(text), kind.type)
    values = json.loads(text)
    if not isinstance(values, list):
        raise ValueError("not a list")
    return [_checked(value, kind.element) for value in values]


def _number(text: str) -> Any:
    return json.loads(text.strip().lower())  # True and FALSE are accepted, too


def _checked(value: Any, kind: GGUFValueType) -> Any:
    """Return the value as its type has it; raises ValueError if it is of another."""
    if kind == STRING:
        if not isinstance(value, str):
            raise ValueError("not a text")
        return value
    if kind == GGUFValueType.BOOL:
        if not isinstance(value, bool):
            raise ValueError("neither true nor false")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    if kind in FLOATS:
        if not math.isfinite(value):
            raise ValueError("not finite")
        return float(value)
    if value != int(value):
        raise ValueError("not a whole number")
    return int(value)


def _looks_typed(text: str) -> bool:
    try:
        return not isinstance(json.loads(text.strip().lower()), str)
    except ValueError:
        return False


def _similar(layout: GgufHeader, key: str) -> str:
    close = difflib.get_close_matches(key, [entry.key for entry in layout.entries], n=1)
    return f"; did you mean {close[0]}?" if close else "; `qwen35 metadata FILE` lists what it has"
