"""A release: every file that a publisher uploads, from one pass over the checkpoint.

What is done is kept in a hidden file of the folder with its checksums, so that an interrupted run goes on; a folder
with other files, or begun with other options, is left alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gguf import GGUFValueType

from qwen35_gguf import __version__
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.hf_to_gguf import PlannedFile
from qwen35_gguf.convert.keyvalue import KeyValue
from qwen35_gguf.errors import PackageError
from qwen35_gguf.quant import recipe_file
from qwen35_gguf.release import card, checksums, shards
from qwen35_gguf.release.draft import disk_errors

STATE = ".qwen35-package.json"
RECIPE = "recipe.json"
IMATRIX = "imatrix.gguf"
HEADER = 8  # bytes of a safetensors file that say how long its header is
LARGEST_HEADER = 1 << 28

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a release is made of; equal options give equal files.

    Attributes:
        model: the checkpoint, a directory or a Hub id.
        quants: names of mixes, in order.
        revision: on the Hub.
        name: of the model; empty: derived from the checkpoint.
        recipe: deltanet, for all quants that it knows; empty: the mixes as they are.
        imatrix: an importance matrix; empty: none.
        mmproj_types: of the vision tower.
        plain: also files without the MTP head.
        heads: also files with the MTP head alone, as draft models.
        max_shard_size: bytes.

    """

    model: str
    quants: tuple[str, ...]
    revision: str = ""
    name: str = ""
    recipe: str = ""
    imatrix: str = ""
    mmproj_types: tuple[str, ...] = ("BF16",)
    plain: bool = False
    heads: bool = False
    max_shard_size: int = 48_000_000_000


@dataclass
class State:
    """What is done: checksums by file name, and figures by the name of the whole file."""

    options: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """The files to be made, from one checkpoint."""

    checkpoint: Checkpoint
    files: tuple[PlannedFile, ...]
    identity: str
    imatrix_sha256: str
    recipe_sha256: str


def plan(options: Options, folder: Path) -> Planned:
    """Decide everything about a release.

    Raises:
        Qwen35Error: a quant is unknown or named twice, or the checkpoint cannot be converted.

    """
    upper = [quant.upper() for quant in options.quants]
    twice = sorted({quant for quant in upper if upper.count(quant) > 1})
    if not upper or twice:
        raise PackageError(
            f"--quants: {f'{twice[0]} is named twice' if twice else 'is empty; name Q4_K_M, for example'}"
        )
    if options.recipe and options.recipe not in recipe_file.BUILT_IN:
        raise PackageError(f"--recipe {options.recipe}: a release takes one of {', '.join(recipe_file.BUILT_IN)}")
    common: dict[str, Any] = {"revision": options.revision or None, "name": options.name or None}
    common["imatrix"] = options.imatrix or None
    made, towers = [], []
    checkpoint: Checkpoint | None = None
    for quant in upper:
        recipe = options.recipe if options.recipe and quant in recipe_file.sizes(options.recipe) else None
        found = hf_to_gguf.plan(options.model, quant, folder, vision=False, recipe=recipe, **common)
        checkpoint = checkpoint or found.checkpoint
        made += [replace(file, path=_renamed(file.path, options)) for file in found.files]
        if options.heads:
            made += [_head(file) for file in made[-len(found.files) :]]
        if options.plain:
            without = hf_to_gguf.plan(options.model, quant, folder, vision=False, mtp=False, recipe=recipe, **common)
            made += [replace(f, path=_renamed(f.path, options, "nomtp-")) for f in without.files]
    for type_ in options.mmproj_types:
        found = hf_to_gguf.plan(options.model, upper[0], folder, mmproj_type=type_, **(common | {"imatrix": None}))
        towers += list(found.files[1:])
    assert checkpoint is not None
    names = [file.path.name for file in [*made, *towers]]
    clash = sorted({name for name in names if names.count(name) > 1})
    if clash:
        raise PackageError(f"{clash[0]}: two files would have this name; leave one of them out")
    identity = checkpoint_identity(checkpoint)
    provenance = (
        KeyValue("quantize.tool", f"qwen35-gguf {__version__}", GGUFValueType.STRING),
        KeyValue("quantize.checkpoint.sha256", identity, GGUFValueType.STRING),
    )
    # The importance matrix goes along under a name of its own.
    files = tuple(
        replace(
            file,
            metadata=(
                *(kv._replace(value=IMATRIX) if kv.key == "quantize.imatrix.file" else kv for kv in file.metadata),
                *provenance,
            ),
        )
        for file in [*made, *towers]
    )

    def said(key: str) -> str:
        return next((str(kv.value) for file in files for kv in file.metadata if kv.key == key), "")

    return Planned(checkpoint, files, identity, said("quantize.imatrix.sha256"), said("quantize.recipe.sha256"))


def _renamed(path: Path, options: Options, prefix: str = "") -> Path:
    """Name a file by the convention NAME-QUANT.gguf: the recipe is said in its metadata, and in recipe.json."""
    stem, _, quant = path.stem.rpartition("-")
    stem = stem.removesuffix(f"-{options.recipe}") if options.recipe else stem
    return path.with_name(f"{stem}-{prefix}{quant}.gguf")


def _head(file: PlannedFile) -> PlannedFile:
    """Plan the file of the MTP head alone: its block, and the embedding, norm and output that it shares.

    Raises:
        PackageError: the checkpoint has none.

    """
    first = next((name for t in file.tensors if ".nextn." in (name := t.name)), "")
    if not first:
        raise PackageError(f"{file.path.name}: has no MTP head; leave out --heads")
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


def checkpoint_identity(checkpoint: Checkpoint) -> str:
    """Return a checksum of the configuration and of the headers of the weights: names, types, shapes, places, sizes.

    The weights themselves are not in it, since that would read them once more.
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


def package(
    options: Options,
    folder: Path,
    *,
    text: Path | None = None,
    measure: bool = True,
    license_: str = "",
    base_model: str = "",
    jobs: int = 0,
    say: Say = lambda _: None,
) -> list[Path]:
    """Make a release, or go on with one.

    Args:
        options: what it is made of.
        folder: where.
        text: that divergence is measured on; by default the packaged one.
        measure: the divergence of each file from the BF16 weights.
        license_: of the model; by default the checkpoint's.
        base_model: its id on the Hub; by default where it came from.
        jobs: threads.
        say: is told what is done.

    Returns:
        All files of the release.

    Raises:
        PackageError: the folder has foreign files, or was begun with other options.
        Qwen35Error: something cannot be made.

    """
    planned = plan(options, folder)
    state = _begin(folder, options, planned)
    _convert(planned, folder, state, options, jobs, say)
    if measure:
        _measure(planned, options, folder, state, text, jobs, say)
    if options.imatrix and not (folder / IMATRIX).exists():
        shutil.copy(options.imatrix, folder / IMATRIX)
    _write(folder / RECIPE, json.dumps(record(options, planned), indent=2) + "\n")
    whole = [file for file in planned.files if is_model(file)]
    towers = [file for file in planned.files if not is_model(file)]
    for name, content in card.texts(
        folder,
        [(file.path.name, _parts(folder, file.path)) for file in whole],
        [file.path for file in towers],
        checkpoint=planned.checkpoint.directory,
        figures=state.figures,
        license_=license_,
        base_model=base_model or hub_id(options.model),
        recipe=options.recipe,
        imatrix=bool(options.imatrix),
    ).items():
        _write(folder / name, content)
    checksums.write(folder, jobs=jobs)
    return checksums.listed_files(folder)


def record(options: Options, planned: Planned) -> dict[str, Any]:
    """Say how the release was made, so that `qwen35 verify-release` can make it again."""
    return {
        "tool": f"qwen35-gguf {__version__}",
        "checkpoint_sha256": planned.identity,
        "imatrix_sha256": planned.imatrix_sha256,
        "recipe_sha256": planned.recipe_sha256,
        "options": asdict(options)
        | {"imatrix": IMATRIX if options.imatrix else "", "model": hub_id(options.model) or Path(options.model).name},
    }


def is_model(file: PlannedFile) -> bool:
    """Whether a file can be run alone: it is no vision tower, and no MTP head."""
    return file.arch != "clip" and not file.path.name.startswith("mtp-")


def hub_id(model: str) -> str:
    """Return the id if the model came from the Hub, else ""."""
    return "" if Path(model).expanduser().exists() else model


def _parts(folder: Path, path: Path) -> list[Path]:
    """List a file's shards, or the file itself."""
    found = sorted(folder.glob(f"{path.stem}-*-of-*.gguf"))
    return found or [path]


def _begin(folder: Path, options: Options, planned: Planned) -> State:
    """Read what an interrupted run left; refuse what is not ours."""
    said = json.loads(json.dumps(asdict(options) | {"identity": planned.identity, "imatrix": planned.imatrix_sha256}))
    state = State(said)
    where = folder / STATE
    if where.exists():
        try:
            known = State(**json.loads(where.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise PackageError(f"{where}: is damaged; remove it, and the files that are to be made again") from None
        if known.options != said:
            raise PackageError(
                f"{folder}: was begun with other options or of another checkpoint; choose another folder"
            )
        state = known
    ours = {STATE, RECIPE, IMATRIX, checksums.LIST, *card.NAMES}
    stems = {file.path.stem for file in planned.files}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        stem = path.stem.rsplit("-of-", 1)[0].rsplit("-", 1)[0] if "-of-" in path.stem else path.stem
        if path.name not in ours and stem not in stems and not path.name.endswith(".part"):
            raise PackageError(f"{folder}: has {path.name}, which does not belong there; choose an empty folder")
    for name, digest in list(state.files.items()):
        path = folder / name
        if not path.is_file() or checksums.digest(path) != digest:
            del state.files[name]
    return state


def _convert(planned: Planned, folder: Path, state: State, options: Options, jobs: int, say: Say) -> None:
    missing = [file for file in planned.files if not _done(folder, file, state)]
    for file in missing:
        for stale in _parts(folder, file.path):
            stale.unlink(missing_ok=True)
    if len(missing) < len(planned.files):
        say(f"{len(planned.files) - len(missing)} of {len(planned.files)} files are there already")
    # Without the MTP head there are other tensors: a pass of their own.
    passes: dict[tuple[str, int], list[PlannedFile]] = {}
    for file in missing:
        passes.setdefault((file.arch, len(file.tensors)), []).append(file)
    for group in passes.values():
        hf_to_gguf.write_files(planned.checkpoint, group, jobs=jobs)
        for file in group:
            paths = [file.path]
            if file.arch != "clip" and file.path.stat().st_size > options.max_shard_size:  # towers load from one file
                paths = shards.split(file.path, folder, options.max_shard_size, force=True)
                file.path.unlink()
            for path in paths:
                state.files[path.name] = checksums.digest(path)
        _save(folder, state)


def _done(folder: Path, file: PlannedFile, state: State) -> bool:
    return all(path.name in state.files for path in _parts(folder, file.path))


def _measure(
    planned: Planned, options: Options, folder: Path, state: State, text: Path | None, jobs: int, say: Say
) -> None:
    """Compare each text model with the weights in BF16, which are made beside the release for that time."""
    from qwen35_gguf.quant.calibration import EVALUATION
    from qwen35_gguf.runtime import evaluate
    from qwen35_gguf.runtime.llama import default_threads
    from qwen35_gguf.runtime.texts import splitter

    missing = [f for f in planned.files if is_model(f) and f.path.name not in state.figures]
    if not missing:
        return
    threads = jobs or default_threads()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".qwen35-reference-") as scratch:
        base = Path(scratch, "reference.logits")
        (reference,) = hf_to_gguf.convert(
            options.model, "BF16", scratch, vision=False, revision=options.revision or None, jobs=jobs
        )
        say(f"measuring {len(missing)} files against BF16")
        evaluate.save_reference(reference, splitter(text, EVALUATION), base, threads=threads)
        reference.unlink()
        for file in missing:
            first = _parts(folder, file.path)[0]
            figures = evaluate.evaluate(first, base, threads=threads)
            state.figures[file.path.name] = {
                "mean": figures.mean.value,
                "low": figures.mean.low,
                "high": figures.mean.high,
                "same_top": figures.same_top.value,
                "tokens": figures.tokens,
            }
            _save(folder, state)
            say(f"{file.path.name}: divergence {figures.mean.value:.5f}, same top {100 * figures.same_top.value:.2f} %")


def _save(folder: Path, state: State) -> None:
    _write(folder / STATE, json.dumps(asdict(state), indent=1) + "\n")


def _write(path: Path, content: str) -> None:
    part = path.with_name(path.name + ".part")
    with disk_errors(path):
        part.write_text(content, encoding="utf-8")
        part.replace(path)


def verify(folder: Path, against: str, *, revision: str = "", jobs: int = 0, say: Say = lambda _: None) -> list[str]:
    """Make a release again and compare; return what differs, a line each.

    Args:
        folder: the release.
        against: the checkpoint.
        revision: on the Hub.
        jobs: threads.
        say: is told what is done.

    Raises:
        PackageError: the folder is no release, or was made of another checkpoint.
        Qwen35Error: a file cannot be read or made.

    """
    try:
        said = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        stored = dict(said["options"])
        stored |= {"quants": tuple(stored["quants"]), "mmproj_types": tuple(stored["mmproj_types"])}
        options = Options(**(stored | {"model": against, "revision": revision}))
    except (OSError, ValueError, KeyError, TypeError):
        raise PackageError(
            f"{folder}: has no {RECIPE} that says how it was made; name the folder of a release"
        ) from None
    if options.imatrix:
        options = replace(options, imatrix=str(folder / IMATRIX))
    problems = [f"{v.name}: {v.problem}" for v in checksums.verify(folder, jobs=jobs) if v.problem]
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix=".qwen35-verify-") as scratch:
        again = Path(scratch)
        planned = plan(options, again)
        if planned.identity != said.get("checkpoint_sha256"):
            raise PackageError(f"{against}: is another checkpoint than the one that the release was made of")
        state = State({})
        _convert(planned, again, state, options, jobs, say)
        for name, digest in sorted(state.files.items()):
            path = folder / name
            if not path.is_file():
                problems.append(f"{name}: is missing")
            elif checksums.digest(path) != digest:
                problems.append(f"{name}: is not what this checkpoint gives")
            else:
                say(f"{name}: the same")
        for path in sorted(folder.glob("*.gguf")):
            if path.name not in state.files and path.name != IMATRIX:
                problems.append(f"{path.name}: is not part of the release")
    return problems
