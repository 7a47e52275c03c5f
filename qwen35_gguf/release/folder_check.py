"""What a release may replace: what it made itself and nobody changed since. Everything else is refused or kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from qwen35_gguf.atomic_file import check_folder
from qwen35_gguf.errors import GgufError, PackageError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.release import checksums, record
from qwen35_gguf.release.card import model_card
from qwen35_gguf.release.card import parts as card_parts
from qwen35_gguf.release.card.model_card import CARD_NAME
from qwen35_gguf.release.plan import IMATRIX, ReleasePlan
from qwen35_gguf.release.state import STATE, State, whole_name

OTHERS = (record.RECIPE, IMATRIX, checksums.LIST, *model_card.NAMES)  # files of a release that are no models
NOT_THERE = "which does not belong there; choose an empty folder"
ADVICE = "choose an empty folder, or replace it with --force"


def refuse_foreign_folder(folder: Path, own: Collection[Path] = (), *, force: bool = False) -> None:
    """Refuse a folder with files that no release has recorded, before anything is read or downloaded.

    Args:
        folder: of the release; it need not exist.
        own: inputs that may be there already, under their names in the release.
        force: files that have names of the release may be replaced.

    Raises:
        PackageError: it has files, or is a file.
        OutputError: it cannot be written to.

    """
    if folder.exists() and not folder.is_dir():
        raise PackageError(f"{folder}: is a file; choose a folder with -o")
    check_folder(folder)
    if force or (folder / STATE).exists():
        return
    for path in _visible(folder):
        if any(_is_same(path, one) for one in own):
            continue
        if path.suffix != ".gguf" and path.name not in OTHERS:
            raise PackageError(f"{folder}: has {path.name}, {NOT_THERE}")
        raise PackageError(f"{folder}: has {path.name}, which this command did not make; {ADVICE}")


def check(folder: Path, plan: ReleasePlan, state: State, *, force: bool = False) -> None:
    """Refuse files that do not belong to the release, or were changed since they were made; forget damaged ones.

    Args:
        folder: of the release; it need not exist.
        plan: the release.
        state: what was recorded; damaged files are removed from it.
        force: replace what was changed, and foreign files that have names of the release.

    Raises:
        PackageError: a file does not belong there, or was changed.
        ChecksumError: a file cannot be read.

    """
    names = [file.name for file in plan.files]
    for path in _visible(folder):
        if whole_name(path) not in names and path.name not in OTHERS:
            raise PackageError(f"{folder}: has {path.name}, {NOT_THERE}")
        if not path.is_file():
            raise PackageError(f"{folder}: has {path.name}, which is not a file; remove it")
        if not force and _is_foreign(path, plan, state):
            raise PackageError(f"{folder}: has {path.name}, which this command did not make; {ADVICE}")
    for name, digest in list(state.files.items()):
        path = folder / name
        if path.is_file() and checksums.digest(path) == digest:
            continue
        if path.is_file() and not force and _is_whole(path):
            raise PackageError(
                f"{path}: was changed since it was made; move it to another folder, or make it again with --force"
            )
        del state.files[name]
        state.linted = [one for one in state.linted if one != whole_name(path)]
    if not force:
        _check_card(folder / CARD_NAME, state)


def _is_foreign(path: Path, plan: ReleasePlan, state: State) -> bool:
    """Whether a file that has a name of the release is of another origin."""
    if path.name == IMATRIX:  # it may be the input itself
        return not plan.imatrix or checksums.digest(path) != checksums.digest(Path(plan.imatrix))
    if not (path.parent / STATE).exists():
        return True
    if path.name == record.RECIPE:
        return path.name not in state.written and not record.is_record(path)
    if path.name in OTHERS or path.name in state.files:
        return False
    whole = whole_name(path)  # a shard of a file that is complete without it is of another release
    return whole not in state.begun or whole in state.files


def _check_card(card: Path, state: State) -> None:
    """Refuse a card that was edited where it is made again.

    Raises:
        PackageError: it was, or is not text.

    """
    edited = card_parts.edited_parts(read_card(card), state.card)
    if edited:
        raise PackageError(
            f"{card}: the part {edited[0]!r} was edited between its marks, where it is made again; "
            "move the edit outside of them, or lose it with --force"
        )


def read_card(card: Path) -> str:
    """Read a model card, "" if there is none.

    Raises:
        PackageError: it is not text, or not a file.

    """
    try:
        if card.exists() and not card.is_file():  # a pipe would be waited for
            raise PackageError(f"{card}: is not a file; move it to another folder")
        return card.read_text(encoding="utf-8") if card.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise PackageError(f"{card}: cannot be read as text ({error}); move it to another folder") from None


def _visible(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, except hidden and incomplete files: records of downloads and uploads, among others."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith(".") and not path.name.endswith(".part"):
            yield path


def _is_whole(path: Path) -> bool:
    """Whether a GGUF file is readable to its end: then it was edited, and not damaged."""
    try:
        read_header(path)
    except GgufError:
        return False
    return True


def _is_same(one: Path, other: Path) -> bool:
    return other.exists() and one.exists() and one.samefile(other)
