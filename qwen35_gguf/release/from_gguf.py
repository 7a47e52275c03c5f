"""The plan of a release of existing GGUF files: named by the convention, copied or split, described.

Their bytes stay. What they are is read from their headers; that they are one model in several types is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import LlamaFileType

from qwen35_gguf.convert.metadata import HUB
from qwen35_gguf.errors import PackageError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.shards import SHARD_NAME, read_set
from qwen35_gguf.release.lint import tensors
from qwen35_gguf.release.lint.check_file import TEXT, VISION
from qwen35_gguf.release.lint.diagnostic import subject
from qwen35_gguf.release.plan import (
    MAX_SHARD_SIZE,
    MMPROJ,
    MODEL,
    MTP,
    PREFIX,
    Origin,
    ReleaseFile,
    ReleasePlan,
    Role,
)

TOKENS = "tokenizer.ggml.tokens"
SAME = ("embedding_length", "attention.head_count", "full_attention_interval", "ssm.inner_size")
PROBE = 1 << 20  # bytes at both ends of a file that identify it


@dataclass(frozen=True)
class FromGguf:
    """A release of existing GGUF files.

    Attributes:
        files: GGUF files; of a set of shards, any of them.
        name: of the model; empty: taken from the first file's name.
        imatrix: an importance matrix to be included; empty: none.
        reference: a GGUF with the unquantized weights that is not part of the release; empty: none.
        max_shard_size: bytes; larger text models are split.

    """

    files: tuple[str, ...]
    name: str = ""
    imatrix: str = ""
    reference: str = ""
    max_shard_size: int = MAX_SHARD_SIZE


@dataclass(frozen=True)
class _Existing:
    """A file and its shards, the header of the first one, and what they hold."""

    header: GgufHeader
    parts: tuple[Path, ...]
    role: Role
    quant: str
    has_mtp: bool

    def named(self, stem: str, *, mark_nomtp: bool) -> ReleaseFile:
        """Give the file its name in the release."""
        label = "nomtp-" if mark_nomtp and self.role == MODEL and not self.has_mtp else ""
        name = f"{PREFIX[self.role]}{stem}-{label}{self.quant}.gguf"
        size = sum(part.stat().st_size for part in self.parts)
        return ReleaseFile(name, self.role, self.quant, size, parts=self.parts)


def plan_release(options: FromGguf) -> ReleasePlan:
    """Read the headers, and name the files: NAME-QUANT.gguf, mmproj-NAME-QUANT.gguf, mtp-NAME-QUANT.gguf.

    Raises:
        GgufError: a file or a shard is missing or damaged.
        PackageError: a file is not of this family, its type is unknown, or the files are not of one model.

    """
    existing = _read(options.files)
    models = [one for one in existing if one.role == MODEL]
    if not models:
        raise PackageError(f"{options.files[0]}: is not a text model, and there is no other file; name a text model")
    texts = [one for one in existing if one.role != MMPROJ]
    for other in texts[1:]:
        _check_same(texts[0].header, other.header)
    first = models[0]
    stem = options.name or _stem(first.parts[0], first.quant)
    mark_nomtp = any(one.has_mtp for one in models)  # where none has an MTP head the names need not differ
    files = tuple(one.named(stem, mark_nomtp=mark_nomtp) for one in existing)
    for number, file in enumerate(files):
        if twin := next((other for other in files[:number] if other.name == file.name), None):
            raise PackageError(f"{twin.parts[0]}: would be {file.name}, as {file.parts[0]} would; leave one out")
    tokens = first.header.find(TOKENS)
    model = next(file for file in files if file.parts == first.parts)
    return ReleasePlan(
        files=files,
        inputs=_inputs(options, files),
        origin=_origin(first.header, model),
        max_shard_size=options.max_shard_size,
        vocabulary=tokens.count if tokens else 0,
        imatrix=options.imatrix,
        reference=options.reference,
    )


def _read(paths: Iterable[str]) -> list[_Existing]:
    found: list[_Existing] = []
    for path in paths:
        layouts = read_set(Path(path))
        parts = tuple(layout.path for layout in layouts)
        if any(parts == one.parts for one in found):
            continue  # another shard of the same set
        header = layouts[0]
        has_mtp = bool(header.value(f"{_arch(header)}.nextn_predict_layers", 0))
        found.append(_Existing(header, parts, _role(layouts), _quant(header), has_mtp))
    return found


def _arch(layout: GgufHeader) -> str:
    return str(layout.value("general.architecture"))


def _role(layouts: Sequence[GgufHeader]) -> Role:
    arch = _arch(layouts[0])
    if arch in VISION:
        return MMPROJ
    if arch not in TEXT:
        raise PackageError(f"{layouts[0].path}: is a GGUF of {arch}, not of Qwen3.5")
    return MTP if tensors.mtp_only(subject(tuple(layouts))) else MODEL


def _quant(layout: GgufHeader) -> str:
    number = layout.value("general.file_type")
    if number not in LlamaFileType._value2member_map_:
        raise PackageError(
            f"{layout.path}: general.file_type is {number}, which is not a known type; set it with `qwen35 metadata`"
        )
    return LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")


def _check_same(first: GgufHeader, other: GgufHeader) -> None:
    for key in (*SAME, "block_count"):
        one, two = (layout.value(f"{_arch(layout)}.{key}") for layout in (first, other))
        if key == "block_count":  # of the main model
            one, two = (
                int(layout.value(f"{_arch(layout)}.block_count", 0))
                - int(layout.value(f"{_arch(layout)}.nextn_predict_layers", 0))
                for layout in (first, other)
            )
        if one != two:
            raise PackageError(
                f"{other.path}: is of another model than {first.path} ({key} is {two}, not {one}); "
                "a release is of one model"
            )


def _stem(path: Path, quant: str) -> str:
    """Return a file's name without its type."""
    shard = SHARD_NAME.fullmatch(path.name)
    name = shard["prefix"] if shard else path.name.removesuffix(".gguf")
    length = len(name) - len(quant)
    return name[:length].rstrip("-._") if name.upper().endswith(quant) and name[:length].strip("-._") else name


def _inputs(options: FromGguf, files: Sequence[ReleaseFile]) -> dict[str, Any]:
    """Identify the files by their sizes, beginnings and ends."""
    found = {}
    for file in files:
        for part in file.parts:
            size = part.stat().st_size
            with part.open("rb") as opened:
                digest = hashlib.sha256(opened.read(PROBE))
                opened.seek(max(0, size - PROBE))
                digest.update(opened.read(PROBE))
            found[f"{file.name} {part.name}"] = f"{size} {digest.hexdigest()}"
    return {"max_shard_size": options.max_shard_size, "files": found}


def _origin(header: GgufHeader, model: ReleaseFile) -> Origin:
    url = str(header.value("general.base_model.0.repo_url") or header.value("general.source.repo_url") or "")
    return Origin(
        name=str(header.value("general.name") or model.name.removesuffix(f"-{model.quant}.gguf")),
        license=str(header.value("general.license") or ""),
        base_model=url.removeprefix(f"{HUB}/") if url.startswith(f"{HUB}/") else "",
        languages=tuple(map(str, header.value("general.languages") or ())),
    )
