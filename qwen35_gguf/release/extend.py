"""Add quants to a finished release of a checkpoint: its options are kept, and its files stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qwen35_gguf.errors import PackageError
from qwen35_gguf.release import checksums, record
from qwen35_gguf.release.card.model_card import CARD_NAME
from qwen35_gguf.release.folder_check import read_card
from qwen35_gguf.release.plan import IMATRIX, FromCheckpoint, ReleasePlan
from qwen35_gguf.release.state import State, whole_name


def extended(
    folder: Path, model: str, quants: Sequence[str], *, revision: str = "", moments: str = ""
) -> FromCheckpoint:
    """Return the options of a release with more quants.

    Args:
        folder: the finished release.
        model: its checkpoint, a directory or a Hub id.
        quants: names of presets that it does not have.
        revision: on the Hub; by default the commit that the release was made of.
        moments: of a release that was rounded by them.

    Raises:
        PackageError: the folder is not a finished release of a checkpoint, was made by another version, or has one of
            the quants.
        ChecksumError: it has no list of checksums.

    """
    made = record.read_record(folder)
    if made.tool != record.TOOL:
        raise PackageError(f"{folder}: was made by {made.tool}; add to it with that version, or make it again")
    wanted = [quant.upper() for quant in quants]
    if not wanted:
        raise PackageError("--add: is empty; name Q6_K, for example")
    had = {one.upper() for one in made.options.quants}
    # The list of checksums is written last: what it does not have was interrupted.
    whole = {whole_name(Path(name)) for name in checksums.read_list(folder)}
    if known := [quant for quant in wanted if quant in had and any(name.endswith(f"-{quant}.gguf") for name in whole)]:
        raise PackageError(f"{folder}: has {known[0]} already; name quants that it does not have")
    commit = "" if Path(model).expanduser().exists() else made.commit
    return replace(
        made.with_moments(moments),
        model=model,
        quants=(*made.options.quants, *(quant for quant in wanted if quant not in had)),
        revision=revision or commit,
    )


def adopt(folder: Path, plan: ReleasePlan) -> State:
    """Make the state of a release that was made elsewhere, such as a download, from its list of checksums.

    Raises:
        PackageError: a file differs from its checksum.
        ChecksumError: there is no list.

    """
    if bad := next((one for one in checksums.verify(folder) if one.problem), None):
        raise PackageError(f"{folder}: {bad.name} {bad.problem}")
    listed = checksums.read_list(folder)
    models = {name: digest for name, digest in listed.items() if name.endswith(".gguf") and name != IMATRIX}
    return State(
        plan.inputs,
        weights=record.read_record(folder).weights_sha256,
        files=models,
        linted=[file.name for file in plan.files if file.name in models],
        written={name: digest for name, digest in listed.items() if name not in models},
        card=read_card(folder / CARD_NAME),
    )


def check_finished(folder: Path, plan: ReleasePlan, state: State) -> None:
    """Refuse a release that is not finished, or a checkpoint that it was not made of.

    Raises:
        PackageError: it is not.

    """
    checkpoint = plan.checkpoint
    if checkpoint is None or checkpoint.headers_sha256 != record.read_record(folder).headers_sha256:
        raise PackageError(f"{plan.inputs.get('model')}: is not the checkpoint that the release was made of")
    planned = {file.name for file in plan.files}
    if other := next((name for name in state.files if whole_name(Path(name)) not in planned), ""):
        raise PackageError(
            f"{folder}: has {other}, which would get another name now; give the checkpoint's folder its former name"
        )
    if not state.files or not (folder / checksums.LIST).is_file():
        raise PackageError(f"{folder}: is not a finished release; finish it first with the command that began it")
