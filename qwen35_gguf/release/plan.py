"""What a release holds: every file, its name, its types and its metadata, decided from headers alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gguf import GGUFValueType

from qwen35_gguf import __version__
from qwen35_gguf.convert import plan_files
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.front_matter import read_front_matter
from qwen35_gguf.convert.plan_files import PlannedFile, Source
from qwen35_gguf.convert.rounding import DIGEST_KEY as ROUNDING_KEY
from qwen35_gguf.convert.rounding import FILE_KEY
from qwen35_gguf.convert.source_tensors.parts import Parts
from qwen35_gguf.convert.weights_digest import FILES, LENGTH
from qwen35_gguf.errors import PackageError
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.quant import recipe_file
from qwen35_gguf.quant.rounding.moments import Method

IMATRIX = "imatrix.gguf"
MOMENTS = "moments.gguf"
DIGEST_KEY = "quantize.checkpoint.sha256"
UNKNOWN = "0" * LENGTH  # until the weights are read
LENGTH_BYTES = 8  # of a safetensors file: the length of its header
LARGEST_HEADER = 1 << 28
MAX_SHARD_SIZE = 48_000_000_000  # below the Hub's limit of 50 GB a file

Role = Literal["model", "mtp", "mmproj"]
MODEL: Role = "model"
MTP: Role = "mtp"
MMPROJ: Role = "mmproj"
PREFIX: dict[Role, str] = {MODEL: "", MTP: "mtp-", MMPROJ: "mmproj-"}


@dataclass(frozen=True)
class FromCheckpoint:
    """A release of a checkpoint; equal options and an equal checkpoint give equal files.

    Attributes:
        model: the checkpoint, a directory or a Hub id.
        quants: names of quantization presets, in order.
        revision: on the Hub.
        name: of the model; empty: derived from the checkpoint.
        recipe: deltanet, for all quants that it has a table for; empty: the presets as they are.
        imatrix: an importance matrix; empty: none.
        rounding: by second moments, block, full or sequential; empty: each block alone.
        moments: for `rounding`; the release does not include them.
        mtp: with the MTP head, if the checkpoint has one.
        mmproj_types: types of the vision encoder's files; none: the vision encoder is left out.
        mtp_files: also write files with the MTP head alone, as draft models.
        nomtp_files: also write files without the MTP head.
        max_shard_size: bytes; larger text models are split.
        ignore_config: keys of config.json that are read as if they were not there, by name or path.
        adapters: PEFT LoRAs, directories or Hub ids, to be merged in this order.
        adapter_scales: one for each adapter; by default 1.

    """

    model: str
    quants: tuple[str, ...]
    revision: str = ""
    name: str = ""
    recipe: str = ""
    imatrix: str = ""
    rounding: Method | Literal[""] = ""
    moments: str = ""
    mtp: bool = True
    mmproj_types: tuple[str, ...] = ("BF16",)
    mtp_files: bool = False
    nomtp_files: bool = False
    max_shard_size: int = MAX_SHARD_SIZE
    ignore_config: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    adapter_scales: tuple[float, ...] = ()


@dataclass(frozen=True)
class ReleaseFile:
    """One file of a release, before it is split. It is either converted, or copied from an existing file.

    Attributes:
        name: NAME-QUANT.gguf, mtp-NAME-QUANT.gguf or mmproj-NAME-QUANT.gguf.
        role: what it holds.
        quant: its type, as in its name.
        nbytes: its size; of a file to be converted, that of its tensors.
        conversion: how to make it from the checkpoint; None for an existing file.
        parts: an existing file, or its shards in order.

    """

    name: str
    role: Role
    quant: str
    nbytes: int
    conversion: PlannedFile | None = None
    parts: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Origin:
    """What the model card reports about the weights.

    Attributes:
        name: of the model.
        license: as the Hub names it; empty: unknown.
        base_model: its id on the Hub; empty: unknown.
        languages: as the Hub names them.

    """

    name: str
    license: str = ""
    base_model: str = ""
    languages: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenedCheckpoint:
    """The checkpoint of a release: what was asked for, what was found, and the checksum of its headers."""

    options: FromCheckpoint
    source: Source
    headers_sha256: str


@dataclass(frozen=True)
class ReleasePlan:
    """Everything that is decided before a weight is read.

    Attributes:
        files: text models, MTP heads, vision encoders.
        inputs: what decides about the bytes, as JSON; an interrupted release resumes only with equal inputs.
        origin: for the model card.
        max_shard_size: bytes.
        vocabulary: tokens.
        imatrix: an importance matrix to be included; empty: none.
        reference: a GGUF with the unquantized weights that is not part of the release; empty: none.
        checkpoint: None for a release of existing GGUF files.

    """

    files: tuple[ReleaseFile, ...]
    inputs: Mapping[str, Any]
    origin: Origin
    max_shard_size: int
    vocabulary: int
    imatrix: str = ""
    reference: str = ""
    checkpoint: OpenedCheckpoint | None = None

    @property
    def models(self) -> tuple[ReleaseFile, ...]:
        """The files that run alone: neither a vision encoder nor an MTP head."""
        return tuple(file for file in self.files if file.role == MODEL)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell the user about the checkpoint and its conversion, one line each."""
        source = self.checkpoint.source if self.checkpoint else None
        shared = (*source.tensors.notes, *source.vocabulary.notes) if source else ()
        own = (note for file in self.files if file.conversion for note in file.conversion.notes)
        return tuple(dict.fromkeys((*shared, *own)))

    def metadata(self, key: str) -> str:
        """Look up a metadata entry that some of the converted files have; "" if none has it."""
        return _metadata(self.files, key)


def plan_release(options: FromCheckpoint, folder: Path) -> ReleasePlan:
    """Plan the release of a checkpoint.

    Raises:
        PackageError: a quant is named twice, or two files would have one name.
        Qwen35Error: a quant is unknown, or the checkpoint cannot be converted.

    """
    quants = [quant.upper() for quant in options.quants]
    _check(options, quants)
    source = plan_files.open_source(
        options.model,
        revision=options.revision or None,
        name=options.name or None,
        imatrix=options.imatrix or None,
        rounding=options.rounding or None,
        moments=options.moments or None,
        ignore_config=options.ignore_config,
        adapters=options.adapters,
        adapter_scales=options.adapter_scales,
        parts=Parts(mtp=options.mtp, vision=bool(options.mmproj_types)),
    )
    stem = source.stem(source.tensors.text)
    files: list[ReleaseFile] = []
    for named in quants:
        recipe = options.recipe if options.recipe and named in recipe_file.variants(options.recipe) else None
        whole = plan_files.text_file(source, named, folder, recipe=recipe)
        # A recipe is recorded in the metadata and in recipe.json; a name is NAME-QUANT.gguf.
        quant = whole.path.stem.rpartition("-")[2]
        whole = replace(whole, path=folder / f"{stem}-{quant}.gguf")
        files.append(_release_file(whole, MODEL, quant))
        if options.mtp_files:
            files.append(_release_file(_mtp_file(whole), MTP, quant))
        if options.nomtp_files:
            without = plan_files.text_file(source, quant, folder, mtp=False, recipe=recipe)
            files.append(_release_file(replace(without, path=folder / f"{stem}-nomtp-{quant}.gguf"), MODEL, quant))
    if source.tensors.vision:
        for type_ in options.mmproj_types:
            files.append(_release_file(plan_files.vision_file(source, type_, folder, stem=stem), MMPROJ, type_.upper()))
    names = [file.name for file in files]
    if clash := sorted({name for name in names if names.count(name) > 1}):
        raise PackageError(f"{clash[0]}: two files would have this name; leave one of them out")
    opened = OpenedCheckpoint(options, source, headers_sha256(source.checkpoint))
    identity = " ".join((opened.headers_sha256, *source.checkpoint.origin))
    digests = {
        "identity": identity,
        "imatrix": _metadata(files, "quantize.imatrix.sha256"),
        "moments": _metadata(files, ROUNDING_KEY),
    }
    return ReleasePlan(
        files=tuple(files),
        inputs=asdict(options) | digests,
        origin=_origin(opened, _metadata(files, "general.name")),
        max_shard_size=options.max_shard_size,
        vocabulary=source.tensors.architecture.vocab_size,
        imatrix=options.imatrix,
        checkpoint=opened,
    )


def _check(options: FromCheckpoint, quants: list[str]) -> None:
    """Refuse unknown names before anything is downloaded."""
    if not quants:
        raise PackageError("--quants: is empty; name Q4_K_M, for example")
    for name, given in (("--quants", quants), ("--mmproj-types", [type_.upper() for type_ in options.mmproj_types])):
        if twice := sorted({one for one in given if given.count(one) > 1}):
            raise PackageError(f"{name}: {twice[0]} is named twice; name it once")
    if options.nomtp_files and not options.mtp:
        raise PackageError("--nomtp-files: with --no-mtp every file is without the MTP head; leave one of them out")
    if options.recipe and options.recipe not in recipe_file.BUILT_IN:
        raise PackageError(f"--recipe {options.recipe}: a release takes one of {', '.join(recipe_file.BUILT_IN)}")
    for quant in quants:
        plan_files.check_names(quant)
    for type_ in options.mmproj_types:
        plan_files.check_names(quants[0], mmproj_type=type_)


def _release_file(planned: PlannedFile, role: Role, quant: str) -> ReleaseFile:
    return ReleaseFile(planned.path.name, role, quant, planned.nbytes, signed(planned))


def signed(file: PlannedFile) -> PlannedFile:
    """Record in the metadata what makes the file and of which weights; the importance matrix is included as IMATRIX.

    Moments are not included, and may have any name; without an importance matrix theirs counts.

    The checksum of the weights is not known yet: its place is filled when they are read, or by `with_digest`.
    """
    by_moments = file.rounding is not None and file.rounding.is_importance(file.metadata)
    named = {"quantize.imatrix.file": MOMENTS if by_moments else IMATRIX, FILE_KEY: MOMENTS}
    entries = [_text(kv.key, named[kv.key]) if kv.key in named else kv for kv in file.metadata]
    entries.append(_text("quantize.tool", f"qwen35-gguf {__version__}"))
    entries.append(_text(DIGEST_KEY, UNKNOWN))
    return replace(file, metadata=tuple(entries))


def _text(key: str, value: str) -> KeyValue:
    return KeyValue.of(key, value, GGUFValueType.STRING)


def with_digest(file: PlannedFile, digest: str) -> PlannedFile:
    """Set the checksum of the weights, which an earlier run has taken."""
    entries = (_text(kv.key, digest) if kv.key == DIGEST_KEY else kv for kv in file.metadata)
    return replace(file, metadata=tuple(entries))


def _mtp_file(file: PlannedFile) -> PlannedFile:
    """Plan the file of the MTP head alone: its block, and the embedding, norm and output that it shares.

    Raises:
        PackageError: the checkpoint has none.

    """
    first = next((name for t in file.tensors if ".nextn." in (name := t.name)), "")
    if not first:
        raise PackageError(f"{file.path.name}: has no MTP head; leave out --mtp-files")
    block = first.split(".nextn.")[0] + "."
    kept = [
        (tensor, type_)
        for tensor, type_ in zip(file.tensors, file.types, strict=True)
        if tensor.name.startswith(block) or not tensor.name.startswith("blk.")
    ]
    return replace(
        file,
        path=file.path.with_name(f"{PREFIX[MTP]}{file.path.name}"),
        tensors=tuple(tensor for tensor, _ in kept),
        types=tuple(type_ for _, type_ in kept),
    )


def _metadata(files: list[ReleaseFile] | tuple[ReleaseFile, ...], key: str) -> str:
    conversions = (file.conversion for file in files if file.conversion is not None)
    return next((str(kv.value) for planned in conversions for kv in planned.metadata if kv.key == key), "")


def _origin(opened: OpenedCheckpoint, name: str) -> Origin:
    front = read_front_matter(opened.source.checkpoint.directory)
    languages = front.get("language", ())
    return Origin(
        name=name,
        license=front.get("license", ""),
        base_model=opened.source.repo or "",
        languages=(languages,) if isinstance(languages, str) else tuple(languages),
    )


def headers_sha256(checkpoint: Checkpoint) -> str:
    """Return a checksum of the configuration and of the headers of the weights: names, types, shapes, offsets, sizes.

    It is known before a weight is read, and tells whether a folder was begun with another checkpoint.
    """
    digest = hashlib.sha256()
    for path in sorted([*(checkpoint.directory / name for name in FILES), *checkpoint.files]):
        if path.name in FILES:
            if path.is_file():
                digest.update(path.name.encode() + path.read_bytes())
        else:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(LENGTH_BYTES), "little")
                digest.update(file.read(min(length, LARGEST_HEADER)))
            digest.update(f"{path.name} {path.stat().st_size}".encode())
    return digest.hexdigest()
