"""What a release of a checkpoint is made of: every file, its name, its types and its metadata, from headers alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from gguf import GGUFValueType

from qwen35_gguf import __version__
from qwen35_gguf.convert import plan_files
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.plan_files import PlannedFile, Source
from qwen35_gguf.convert.weights_digest import LENGTH
from qwen35_gguf.errors import PackageError
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.quant import recipe_file

IMATRIX = "imatrix.gguf"
DIGEST_KEY = "quantize.checkpoint.sha256"
UNKNOWN = "0" * LENGTH  # until the weights were read
HEADER = 8  # bytes of a safetensors file that say how long its header is
LARGEST_HEADER = 1 << 28


@dataclass(frozen=True)
class Options:
    """What a release is made of; equal options and an equal checkpoint give equal files.

    Attributes:
        model: the checkpoint, a directory or a Hub id.
        quants: names of mixes, in order.
        revision: on the Hub.
        name: of the model; empty: derived from the checkpoint.
        recipe: deltanet, for all quants that it knows; empty: the mixes as they are.
        imatrix: an importance matrix; empty: none.
        mmproj_types: of the vision tower.
        mtp_files: also write files with the MTP head alone, as draft models.
        nomtp_files: also write files without the MTP head.
        max_shard_size: bytes.

    """

    model: str
    quants: tuple[str, ...]
    revision: str = ""
    name: str = ""
    recipe: str = ""
    imatrix: str = ""
    mmproj_types: tuple[str, ...] = ("BF16",)
    mtp_files: bool = False
    nomtp_files: bool = False
    max_shard_size: int = 48_000_000_000


@dataclass(frozen=True)
class Planned:
    """The files to be made, from one checkpoint.

    Attributes:
        source: the checkpoint.
        files: text models, heads, towers.
        identity: a checksum of the checkpoint's headers; see `header_checksum`.

    """

    source: Source
    files: tuple[PlannedFile, ...]
    identity: str

    def said(self, key: str) -> str:
        """Look up a metadata entry that some of the files have."""
        return next((str(kv.value) for file in self.files for kv in file.metadata if kv.key == key), "")


def plan(options: Options, folder: Path) -> Planned:
    """Decide everything about a release.

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
    )
    stem = source.stem(source.tensors.text)
    files: list[PlannedFile] = []
    for named in quants:
        recipe = options.recipe if options.recipe and named in recipe_file.sizes(options.recipe) else None
        whole = plan_files.text_file(source, named, folder, recipe=recipe)
        # The recipe is said in the metadata and in recipe.json; a name is NAME-QUANT.gguf.
        quant = whole.path.stem.rpartition("-")[2]
        files.append(replace(whole, path=folder / f"{stem}-{quant}.gguf"))
        if options.mtp_files:
            files.append(_head(files[-1]))
        if options.nomtp_files:
            without = plan_files.text_file(source, quant, folder, mtp=False, recipe=recipe)
            files.append(replace(without, path=folder / f"{stem}-nomtp-{quant}.gguf"))
    if source.tensors.vision:
        files += [plan_files.vision_file(source, type_, folder, stem=stem) for type_ in options.mmproj_types]
    names = [file.path.name for file in files]
    if clash := sorted({name for name in names if names.count(name) > 1}):
        raise PackageError(f"{clash[0]}: two files would have this name; leave one of them out")
    return Planned(source, tuple(signed(file) for file in files), header_checksum(source.checkpoint))


def _check(options: Options, quants: list[str]) -> None:
    """Refuse names that mean nothing, before anything is downloaded."""
    if not quants:
        raise PackageError("--quants: is empty; name Q4_K_M, for example")
    for name, given in (("--quants", quants), ("--mmproj-types", [type_.upper() for type_ in options.mmproj_types])):
        if twice := sorted({one for one in given if given.count(one) > 1}):
            raise PackageError(f"{name}: {twice[0]} is named twice")
    if options.recipe and options.recipe not in recipe_file.BUILT_IN:
        raise PackageError(f"--recipe {options.recipe}: a release takes one of {', '.join(recipe_file.BUILT_IN)}")
    for quant in quants:
        plan_files.check_names(quant)
    for type_ in options.mmproj_types:
        plan_files.check_names(quants[0], mmproj_type=type_)


def signed(file: PlannedFile) -> PlannedFile:
    """Say in the metadata what made the file and of which weights; the importance matrix goes along under its name.

    The checksum of the weights is not known yet: its place is filled when they were read, or by `with_digest`.
    """
    entries = [kv._replace(value=IMATRIX) if kv.key == "quantize.imatrix.file" else kv for kv in file.metadata]
    entries.append(KeyValue("quantize.tool", f"qwen35-gguf {__version__}", GGUFValueType.STRING))
    entries.append(KeyValue(DIGEST_KEY, UNKNOWN, GGUFValueType.STRING))
    return replace(file, metadata=tuple(entries))


def with_digest(file: PlannedFile, digest: str) -> PlannedFile:
    """Put in the checksum of the weights, which an earlier run has taken."""
    entries = (kv._replace(value=digest) if kv.key == DIGEST_KEY else kv for kv in file.metadata)
    return replace(file, metadata=tuple(entries))


def _head(file: PlannedFile) -> PlannedFile:
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
        path=file.path.with_name(f"mtp-{file.path.name}"),
        tensors=tuple(tensor for tensor, _ in kept),
        types=tuple(type_ for _, type_ in kept),
    )


def is_model(file: PlannedFile) -> bool:
    """Whether a file can be run alone: it is no vision tower, and no MTP head."""
    return file.arch != "clip" and not file.path.name.startswith("mtp-")


def header_checksum(checkpoint: Checkpoint) -> str:
    """Return a checksum of the configuration and of the headers of the weights: names, types, shapes, places, sizes.

    It is there before a weight is read, to tell at once whether a folder was begun with another checkpoint.
    """
    digest = hashlib.sha256()
    for path in sorted(checkpoint.directory.iterdir()):
        if path.name in ("config.json", "tokenizer.json"):
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix == ".safetensors":
            with path.open("rb") as file:
                length = int.from_bytes(file.read(HEADER), "little")
                digest.update(file.read(min(length, LARGEST_HEADER)))
            digest.update(f"{path.name} {path.stat().st_size}".encode())
    return digest.hexdigest()


def hub_id(model: str) -> str:
    """Return the id if the model came from the Hub, else ""."""
    return "" if Path(model).expanduser().exists() else model
