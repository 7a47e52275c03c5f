"""The progress of a release: what is complete, with checksums, in a hidden file of its folder.

An interrupted release resumes from it. A folder with other files, or begun with other options, is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from qwen35_gguf.atomic_file import disk_errors, write_text
from qwen35_gguf.errors import PackageError
from qwen35_gguf.gguf_file.shards import SHARD_NAME
from qwen35_gguf.json_file import COUNT, NUMBER, OBJECT, TEXT, JsonObject, list_of, map_of, read_json

STATE = ".qwen35-package.json"
ADVICE = "remove it, and the files that are to be made again"
EXTENDED = ("quants", "model", "revision")  # inputs that may differ when a release is extended


@dataclass(frozen=True)
class Figures:
    """The KL divergence of a model from the unquantized weights, in nats.

    Attributes:
        mean: over the tokens.
        low: of the interval that holds the true mean with 95 % confidence.
        high: of that interval.
        same_top: share of tokens with the same most likely token, 0 to 1.
        tokens: that were compared.

    """

    mean: float
    low: float
    high: float
    same_top: float
    tokens: int


@dataclass
class State:
    """What is complete.

    Attributes:
        inputs: what decides about the bytes, as JSON.
        weights: the checksum of the checkpoint's weights; empty until they are read.
        files: checksums of complete files, by name.
        figures: KL divergence, by the name of the file before it is split.
        linted: complete files without an error.
        begun: files that were being made, by name; those of them without a checksum are remains.
        written: checksums of the other files, as they were made.
        card: the model card, as it was made; "" if that is not known.
        license: of the model, as it was given.
        base_model: as it was given.

    """

    inputs: Mapping[str, Any]
    weights: str = ""
    files: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)
    linted: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    card: str = ""
    license: str = ""
    base_model: str = ""


def begin(folder: Path, inputs: Mapping[str, Any], *, extends: bool = False) -> State:
    """Read what an interrupted release recorded.

    Args:
        folder: of the release; it need not exist.
        inputs: what decides about the bytes, as JSON.
        extends: the release may have fewer quants, and its checkpoint may be in another place.

    Raises:
        PackageError: the folder was begun with other options.

    """
    wanted = json.loads(json.dumps(inputs))
    if not (folder / STATE).exists():
        return State(wanted)
    state = _read(folder / STATE)
    free = EXTENDED if extends else ()
    if any(state.inputs.get(key) != wanted.get(key) for key in {*state.inputs, *wanted} if key not in free):
        raise PackageError(f"{folder}: was begun with other options or from other weights; choose another folder")
    state.inputs = wanted
    return state


def _read(path: Path) -> State:
    read = read_json(path, error=PackageError, advice=ADVICE)
    if unknown := set(read.values) - {field.name for field in fields(State)}:
        raise PackageError(f"{path}: has {sorted(unknown)[0]}, of another version; {ADVICE}")
    figures = read.section("figures")
    return State(
        inputs=read.need("inputs", OBJECT),
        weights=read.get("weights", TEXT, ""),
        files=read.get("files", map_of(TEXT), {}),
        figures={name: _figures(figures.section(name)) for name in figures.values},
        linted=read.get("linted", list_of(TEXT), []),
        begun=read.get("begun", list_of(TEXT), []),
        written=read.get("written", map_of(TEXT), {}),
        card=read.get("card", TEXT, ""),
        license=read.get("license", TEXT, ""),
        base_model=read.get("base_model", TEXT, ""),
    )


def _figures(read: JsonObject) -> Figures:
    mean, low, high, same_top = (read.need(name, NUMBER) for name in ("mean", "low", "high", "same_top"))
    return Figures(mean, low, high, same_top, read.need("tokens", COUNT))


def save(folder: Path, state: State) -> None:
    """Record the progress."""
    write_text(folder / STATE, json.dumps(asdict(state), indent=1) + "\n")


def whole_name(path: Path) -> str:
    """Return the name of a shard's file before it was split; of any other file, its own."""
    shard = SHARD_NAME.fullmatch(path.name)
    return f"{shard['prefix']}.gguf" if shard else path.name


def parts_of(folder: Path, name: str) -> list[Path]:
    """List the shards of a file that was split, in order, or the file itself."""
    return sorted(_shards(folder, name)) or [folder / name]


def _shards(folder: Path, name: str) -> Iterator[Path]:
    for path in folder.glob("*-of-*.gguf"):
        if whole_name(path) == name:
            yield path


def is_complete(folder: Path, name: str, state: State) -> bool:
    """Whether all parts of a file are present and unchanged."""
    parts = parts_of(folder, name)
    shard = SHARD_NAME.fullmatch(parts[0].name)
    whole = shard is None or int(shard["count"]) == len(parts)
    return whole and all(path.name in state.files for path in parts)


def incomplete(folder: Path, names: Sequence[str], state: State, say: Callable[[str], None]) -> set[str]:
    """Return the files that are not complete, and remove their remains."""
    missing = {name for name in names if not is_complete(folder, name, state)}
    if len(missing) < len(names):
        say(f"{len(names) - len(missing)} of {len(names)} files are complete already")
    for name in missing:
        for remains in {*parts_of(folder, name), folder / name}:
            with disk_errors(remains):
                remains.unlink(missing_ok=True)
    return missing
