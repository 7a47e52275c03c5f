"""A release around GGUF files that exist already: named by the convention, copied or cut, described.

Their bytes stay. What they are is read from their headers; that they are one model in several types is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gguf import LlamaFileType

from qwen35_gguf.convert.metadata import HUB
from qwen35_gguf.errors import PackageError
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.gguf_file.atomic_file import copy_bytes, disk_errors, draft
from qwen35_gguf.gguf_file.layout import Layout
from qwen35_gguf.gguf_file.shards import SHARD_NAME, read_set, shard_path
from qwen35_gguf.gguf_file.writer import check_space
from qwen35_gguf.release import checksums
from qwen35_gguf.release import state as states
from qwen35_gguf.release.lint import tensors
from qwen35_gguf.release.lint.check_file import TEXT, VISION
from qwen35_gguf.release.lint.diagnostic import subject
from qwen35_gguf.release.model_card import Origin
from qwen35_gguf.release.state import State

Kind = Literal["model", "head", "tower"]
MODEL: Kind = "model"
HEAD: Kind = "head"
TOWER: Kind = "tower"
PREFIX: dict[Kind, str] = {MODEL: "", HEAD: "mtp-", TOWER: "mmproj-"}
SAME = ("embedding_length", "attention.head_count", "full_attention_interval", "ssm.inner_size")
PROBE = 1 << 20  # bytes at both ends of a file by which it is known again

Say = Callable[[str], None]


@dataclass(frozen=True)
class ReadyMade:
    """What a release of files is made of.

    Attributes:
        files: GGUF files; of a set of shards, any of them.
        name: of the model; empty: taken from the first file's name.
        imatrix: a file that goes along; empty: none.
        reference: a GGUF with the unquantized weights that is not part of the release; empty: none.
        max_shard_size: bytes; larger files are cut.

    """

    files: tuple[str, ...]
    name: str = ""
    imatrix: str = ""
    reference: str = ""
    max_shard_size: int = 48_000_000_000


@dataclass(frozen=True)
class Ready:
    """One of the files: its name in the release, what it is, its type, and where it is now (all shards)."""

    name: str
    kind: Kind
    quant: str
    parts: tuple[Path, ...]


def plan(files: ReadyMade) -> list[Ready]:
    """Read the headers and decide on names: NAME-QUANT.gguf, mmproj-NAME-QUANT.gguf, mtp-NAME-QUANT.gguf.

    Raises:
        GgufError: a file or a shard is missing or damaged.
        PackageError: a file is not of this family, does not say its type, or the files are not of one model.

    """
    found: list[tuple[Kind, str, str, tuple[Path, ...]]] = []
    first: Layout | None = None
    for file in files.files:
        layouts = read_set(Path(file))
        head = layouts[0]
        parts = tuple(layout.path for layout in layouts)
        if any(parts == seen for _, _, _, seen in found):
            continue  # another shard of the same set
        kind, quant = _kind(layouts), _quant(head)
        if kind != TOWER:
            first = first or head
            _check_same(first, head)
        label = "nomtp-" if kind == MODEL and not head.get(f"{_arch(head)}.nextn_predict_layers", 0) else ""
        found.append((kind, quant, label, parts))
    models = [(quant, parts) for kind, quant, _, parts in found if kind == MODEL]
    if not models:
        raise PackageError(f"{files.files[0]}: is no text model, and there is no other file; name one")
    stem = files.name or _stem(models[0][1][0], models[0][0])
    if all(label for kind, _, label, _ in found if kind == MODEL):
        found = [(kind, quant, "", parts) for kind, quant, _, parts in found]  # none has a head: nothing to tell apart
    ready = [
        Ready(f"{PREFIX[kind]}{stem}-{label}{quant}.gguf", kind, quant, parts) for kind, quant, label, parts in found
    ]
    for one in ready:
        others = [other for other in ready if other.name == one.name and other is not one]
        if others:
            raise PackageError(f"{one.parts[0]}: would be {one.name}, as {others[0].parts[0]} would; leave one out")
    return ready


def _arch(layout: Layout) -> str:
    return str(layout.get("general.architecture"))


def _kind(layouts: Sequence[Layout]) -> Kind:
    arch = _arch(layouts[0])
    if arch in VISION:
        return TOWER
    if arch not in TEXT:
        raise PackageError(f"{layouts[0].path}: is a GGUF of {arch}, not of Qwen3.5")
    return HEAD if tensors.mtp_only(subject(tuple(layouts))) else MODEL


def _quant(layout: Layout) -> str:
    number = layout.get("general.file_type")
    if number not in LlamaFileType._value2member_map_:
        raise PackageError(
            f"{layout.path}: general.file_type is {number}, so its type is not known; set it with `qwen35 metadata`"
        )
    return LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")


def _check_same(first: Layout, other: Layout) -> None:
    for key in (*SAME, "block_count"):
        one, two = (layout.get(f"{_arch(layout)}.{key}") for layout in (first, other))
        if key == "block_count":  # of the trunk
            one, two = (
                int(layout.get(f"{_arch(layout)}.block_count", 0))
                - int(layout.get(f"{_arch(layout)}.nextn_predict_layers", 0))
                for layout in (first, other)
            )
        if one != two:
            raise PackageError(
                f"{other.path}: is of another model than {first.path} ({key} is {two}, not {one}); "
                "a release is of one model"
            )


def _stem(path: Path, quant: str) -> str:
    """Take what a file is quantized to out of its name."""
    shard = SHARD_NAME.fullmatch(path.name)
    name = shard["prefix"] if shard else path.name.removesuffix(".gguf")
    cut = len(name) - len(quant)
    return name[:cut].rstrip("-._") if name.upper().endswith(quant) and name[:cut].strip("-._") else name


def identity(files: ReadyMade, planned: Sequence[Ready]) -> dict[str, Any]:
    """Say what the release is made of, so that another run knows whether it goes on: sizes, beginnings and ends."""
    said: dict[str, Any] = {"max_shard_size": files.max_shard_size, "files": {}}
    for one in planned:
        for part in one.parts:
            size = part.stat().st_size
            with part.open("rb") as file:
                digest = hashlib.sha256(file.read(PROBE))
                file.seek(max(0, size - PROBE))
                digest.update(file.read(PROBE))
            said["files"][f"{one.name} {part.name}"] = f"{size} {digest.hexdigest()}"
    return said


def copy(
    planned: Sequence[Ready],
    folder: Path,
    state: State,
    max_shard_size: int,
    *,
    say: Say = lambda _: None,
) -> None:
    """Bring the files into the folder; what is larger than a shard may be is cut, shards stay as they are.

    Raises:
        OutputError: there is no space, or a file cannot be written.
        GgufError: a file is damaged.

    """
    names = states.to_be_made(folder, [one.name for one in planned], state, say)
    missing = [one for one in planned if one.name in names]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_space(folder, sum(part.stat().st_size for one in missing for part in one.parts))
    for one in missing:
        stem = one.name.removesuffix(".gguf")
        if len(one.parts) > 1:
            targets = [shard_path(folder, stem, index, len(one.parts)) for index in range(len(one.parts))]
            for part, target in zip(one.parts, targets, strict=True):
                _copy(part, target)
        elif one.kind != TOWER and one.parts[0].stat().st_size > max_shard_size:
            targets = shards.split(one.parts[0], folder, max_shard_size, prefix=stem, force=True)
        else:
            targets = [folder / one.name]
            _copy(one.parts[0], targets[0])
        for target in targets:
            state.files[target.name] = checksums.digest(target)
        states.save(folder, state)


def _copy(source: Path, target: Path) -> None:
    with draft(target, replace=True) as made, source.open("rb") as file:
        with disk_errors(made.part):
            copy_bytes(file, made.file, source.stat().st_size, source)
        made.finish()
        made.publish()


def record(planned: Sequence[Ready], state: State) -> list[dict[str, Any]]:
    """List what the files were called, and their checksums now."""
    files: dict[str, dict[str, str]] = {}
    for name, digest in state.files.items():
        files.setdefault(states.whole_name(Path(name)), {})[name] = digest
    return [
        {"name": one.name, "source": [part.name for part in one.parts], "sha256": files[one.name]} for one in planned
    ]


def origin(model: Ready) -> Origin:
    """Read from a file where its weights came from."""
    layout = read_set(model.parts[0])[0]
    url = str(layout.get("general.base_model.0.repo_url") or layout.get("general.source.repo_url") or "")
    languages = layout.get("general.languages")
    return Origin(
        front={"language": languages} if languages else {},
        name=str(layout.get("general.name") or model.name.removesuffix(f"-{model.quant}.gguf")),
        license=str(layout.get("general.license") or ""),
        base_model=url.removeprefix(f"{HUB}/") if url.startswith(f"{HUB}/") else "",
    )
