"""A model on the Hub: which of its files are one, which of them suits this machine, and their download.

What a repository has is read by names, and then by headers: which quant fits is decided as loading decides it, on files
of which only the headers are there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from qwen35_gguf.atomic_file import check_space
from qwen35_gguf.errors import GgufError, HubError, MemoryLimitError, VisionError
from qwen35_gguf.hub.client import Repository, cached_file, download, read_repository
from qwen35_gguf.hub.model_files import MOST_LISTED, ModelFiles, Quant, candidates, find_quant, listed, model_files
from qwen35_gguf.hub.names import HubName, parse_name
from qwen35_gguf.hub.remote_header import copy_headers
from qwen35_gguf.runtime.loading import place, plan_load
from qwen35_gguf.runtime.model_files import choose_mmproj, read_model
from qwen35_gguf.runtime.mtp_files import choose_head
from qwen35_gguf.runtime.options import LoadOptions
from qwen35_gguf.runtime.planning.memory import architecture_of, has_mtp
from qwen35_gguf.units import format_size

MOST_TRIED = 200  # models, encoders or MTP heads of a repository whose headers are read to choose one
BESIDE = "mmproj-"  # what the runtime finds by itself in the folder of a model


@dataclass(frozen=True)
class HeaderFiles:
    """The files of a model of which only the headers need be there.

    Attributes:
        model: the first shard.
        mmproj: the vision encoder that fits; None if there is none.
        mtp: the MTP head that fits; None if there is none, or the model has its own.

    """

    model: Path
    mmproj: Path | None
    mtp: Path | None = None


Fits = Callable[[HeaderFiles], object]  # raises MemoryLimitError if it does not


@dataclass(frozen=True)
class HubModel:
    """A text model of a repository, and the vision encoder that fits.

    Attributes:
        repository: of the files.
        quant: the text model.
        encoder: path of the vision encoder in the repository; None if none fits.
        note: why this quant was chosen, for the user; empty if it was named.
        head: path of the MTP head in the repository that fits, for a model without one; None if none does.

    """

    repository: Repository
    quant: Quant
    encoder: str | None
    note: str = ""
    head: str | None = None

    @property
    def name(self) -> str:
        """The name by which it is asked for."""
        return str(HubName(self.repository.id, self.quant.label, self.repository.revision))


@contextmanager
def found_model(name: HubName, fits: Fits | None = None) -> Iterator[tuple[HubModel, HeaderFiles]]:
    """Find the files of a model, and give their headers within a block.

    Args:
        name: of the model. Without a quant the best that fits is chosen; of those that are in the cache, if one fits.
        fits: decides; None: the best, whether or not it fits.

    Raises:
        HubError: there is no such repository or quant, or it is not handed out.
        GgufError, ModelError: a file is damaged, or is not of Qwen3.5.
        MemoryLimitError: no quant fits.
        OutputError: the folder for temporary files cannot be written.

    """
    repository = read_repository(name.repo, name.revision)
    files = model_files(repository.files)
    with tempfile.TemporaryDirectory(prefix="qwen35-") as temporary:
        folder = Path(temporary)
        if name.quant is None:
            quant, note = _best(name, repository, files, folder, fits)
        else:
            quant, note = _named(name, repository, files), ""
        headers, encoder, head = _headers(repository, quant, files, folder)
        if repository.snapshot is not None:
            note = f"{name.repo}: {repository.reason}; what is in the cache is used" + (f"\n{note}" if note else "")
        yield HubModel(repository, quant, encoder, note, head), headers


def _named(name: HubName, repository: Repository, files: ModelFiles) -> Quant:
    try:
        return find_quant(name, files.quants)
    except HubError as error:
        if repository.snapshot is None:
            raise
        raise HubError(f"{error}; these are in the cache, and {repository.reason}") from None


def _best(
    name: HubName, repository: Repository, files: ModelFiles, folder: Path, fits: Fits | None
) -> tuple[Quant, str]:
    """Choose a quant; return it and why."""
    known = candidates(files.quants)
    if not known:
        find_quant(name, [])  # raises
    if len(known) > MOST_TRIED:
        raise HubError(
            f"{name.repo}: has {len(known):,} models; use {name.at_revision}:QUANT with one of {listed(known)}"
        )
    here = [one for one in known if all(cached_file(repository, file) for file in one.files)]
    refused: MemoryLimitError | None = None
    for quant in [*here, *(one for one in known if one not in here)]:
        headers, *_ = _headers(repository, quant, files, folder)
        try:
            if fits is not None:
                fits(headers)
        except MemoryLimitError as error:
            refused = error
            continue
        others = listed(one for one in known if one is not quant) if len(known) > 1 else ""
        why = "the best that is here already" if quant in here else "the best"
        why += " and fits this machine" if quant in here and fits else " that fits this machine" if fits else ""
        return quant, f"{name.repo}: {quant}, {why}" + (
            f"; {name.at_revision}:QUANT takes another: {others}" if others else ""
        )
    assert refused is not None
    raise MemoryLimitError(f"{name.repo}: none of {', '.join(map(str, known[:MOST_LISTED]))} fits: {refused}")


def _headers(
    repository: Repository, quant: Quant, files: ModelFiles, folder: Path
) -> tuple[HeaderFiles, str | None, str | None]:
    """Copy the headers of a model and of what fits it; give also the paths of the encoder and the MTP head."""
    model = copy_headers(repository, quant.files, folder)[0]
    header = read_model(model)

    def copied(paths: Sequence[str]) -> dict[Path | None, str]:
        found: dict[Path | None, str] = {}
        for file in paths[:MOST_TRIED]:
            with suppress(GgufError):  # an error only for those who need that one
                found[copy_headers(repository, [file], folder)[0]] = file
        return found

    encoders, heads = copied(files.encoders), copied(() if has_mtp(header) else files.heads)
    mtp = choose_head(header, [path for path in heads if path])
    mmproj = None
    with suppress(VisionError):
        mmproj = choose_mmproj(model, [path for path in encoders if path], architecture_of(header).hidden_size)
    return HeaderFiles(model, mmproj, mtp), encoders.get(mmproj), heads.get(mtp)


def fits_this_machine(options: LoadOptions) -> Fits:
    """Return what decides as loading with these options would; a profile belongs to a whole file."""

    def check(headers: HeaderFiles) -> None:
        mmproj = options.mmproj or headers.mmproj
        mtp = options.mtp or headers.mtp
        place(plan_load(replace(options, path=headers.model, mmproj=mmproj, mtp=mtp, profile=False)))

    return check


def hub_name(typed: Path) -> HubName | None:
    """Read what was typed as a name on the Hub; None for a path that exists, or that can be nothing else."""
    return None if typed.exists() else parse_name(typed.as_posix())


def at_hand(options: LoadOptions, say: Callable[[str], None], *, vision: bool = True) -> LoadOptions:
    """Return options with the path of a file: a model on the Hub is downloaded.

    Args:
        options: whose `path` may be the name of a model on the Hub.
        say: is called with what the user may want to know, a line each.
        vision: whether the vision encoder is wanted.

    Raises:
        Qwen35Error: as of `found_model` and `download_model`.

    """
    name = hub_name(options.path)
    if name is None:
        return options
    with found_model(name, fits_this_machine(options)) as (model, _):
        for line in model.note.splitlines():
            say(f"note: {line}")
        if text := progress_note(model):
            say(text)
        return download_model(model, options, vision=vision)


def download_model(model: HubModel, options: LoadOptions, *, vision: bool) -> LoadOptions:
    """Download a model into the cache of the Hub, as far as it is not there, and name its files.

    Args:
        model: from `found_model`.
        options: whose `path` is replaced; an `mmproj` and an `mtp` that they name are kept.
        vision: download the vision encoder, too.

    Raises:
        HubError: the download fails; what came is kept, and the next one resumes.
        OutputError: the disk has no room.

    """
    repository = model.repository
    encoder = model.encoder if vision and options.mmproj is None else None
    head = model.head if options.mtp is None and options.draft != 0 else None
    wanted = [*model.quant.files, *(file for file in (encoder, head) if file)]
    absent = [file for file in wanted if cached_file(repository, file) is None]
    snapshot = repository.snapshot
    if absent and snapshot is not None:
        encoder = None if encoder in absent else encoder  # it may not be needed
        head = None if head in absent else head
        if any(file in absent for file in model.quant.files):
            raise HubError(f"{model.name}: {repository.reason}")
    if snapshot is None:
        _check_room(sum(repository.files[file] for file in absent))
        patterns = [_exactly(file) for file in wanted]
        snapshot = download(repository.id, patterns, repository.revision, instead="file")
    path = snapshot / model.quant.files[0]
    beside = (
        encoder is not None and Path(encoder).name.startswith(BESIDE) and (snapshot / encoder).parent == path.parent
    )
    mmproj = snapshot / encoder if encoder and not beside else options.mmproj
    return replace(options, path=path, mmproj=mmproj, mtp=snapshot / head if head else options.mtp)


def _exactly(file: str) -> str:
    """Return a pattern for one path."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in file)


def _check_room(needed: int) -> None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    check_space(folder, needed)


def progress_note(model: HubModel) -> str:
    """Describe what will be downloaded; empty if all of it is there."""
    absent = [file for file in model.quant.files if cached_file(model.repository, file) is None]
    if not absent:
        return ""
    return f"{model.name}: downloading {format_size(sum(model.repository.files[file] for file in absent))}"
