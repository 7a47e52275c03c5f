"""Write what is missing of a release: convert it in one pass over the checkpoint, or copy it; split what is too large.

Each file's checksums are taken as soon as it is complete, so that an interrupted release resumes with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen35_gguf.atomic_file import check_space, disk_errors, pending_file
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.convert.plan_files import PlannedFile
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.gguf_file.shards import shard_path
from qwen35_gguf.gguf_file.writer import copy_bytes
from qwen35_gguf.release import checksums
from qwen35_gguf.release import state as states
from qwen35_gguf.release.plan import DIGEST_KEY, MMPROJ, OpenedCheckpoint, ReleaseFile, ReleasePlan, with_digest
from qwen35_gguf.release.state import State

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scratch:
    """What is needed beside the release for a while.

    Attributes:
        reference: the unquantized weights, to be converted in the same pass into another folder; None: not needed.
        nbytes: that are needed later, after the files are written.

    """

    reference: PlannedFile | None = None
    nbytes: int = 0


def write_files(
    plan: ReleasePlan,
    folder: Path,
    state: State,
    scratch: Scratch | None = None,
    *,
    jobs: int = 0,
    say: Say = lambda _: None,
) -> None:
    """Write the files of a release that are not complete yet, split if they are larger than a shard may be.

    Args:
        plan: the release.
        folder: of the release.
        state: is updated.
        scratch: what else must fit on the disk.
        jobs: threads; 0 for one a core.
        say: is called with the number of files that are complete already.

    Raises:
        OutputError: there is no space, or a file cannot be written.
        GgufError: an existing file is damaged.

    """
    scratch = scratch or Scratch()
    names = states.incomplete(folder, [file.name for file in plan.files], state, say)
    missing = [file for file in plan.files if file.name in names]
    _check_space(plan, missing, folder, scratch)
    converted = [file for file in missing if file.conversion is not None]
    if plan.checkpoint is not None:
        _convert(plan.checkpoint, converted, state, scratch.reference, jobs)
    copied = [[file] for file in missing if file.conversion is None]
    for batch in [converted, *copied] if converted else copied:
        paths = [path for file in batch for path in _place(file, folder, plan.max_shard_size)]
        digests = checksums.digests(paths, jobs)
        state.files |= {path.name: digest for path, digest in zip(paths, digests, strict=True)}
        states.save(folder, state)


def _check_space(plan: ReleasePlan, missing: Sequence[ReleaseFile], folder: Path, scratch: Scratch) -> None:
    needed = sum(file.nbytes for file in missing) + scratch.nbytes
    needed += scratch.reference.nbytes if scratch.reference is not None else 0
    # A converted file is whole beside its shards until it is split, one at a time.
    large = (file.nbytes for file in missing if file.conversion is not None and file.nbytes > plan.max_shard_size)
    check_space(folder, needed + max(large, default=0))


def _convert(
    checkpoint: OpenedCheckpoint, files: Sequence[ReleaseFile], state: State, reference: PlannedFile | None, jobs: int
) -> None:
    """Convert all files in one pass over the checkpoint, which also takes the checksum of the weights."""
    planned = [file.conversion for file in files if file.conversion is not None]
    if state.weights:
        planned = [with_digest(one, state.weights) for one in planned]
    if reference is not None:
        planned.append(reference)
    if planned:
        key = "" if state.weights else DIGEST_KEY
        found = hf_to_gguf.write_files(checkpoint.source.checkpoint, planned, jobs=jobs, digest_key=key)
        state.weights = state.weights or found


def _place(file: ReleaseFile, folder: Path, max_shard_size: int) -> list[Path]:
    """Bring one file into the folder under its name, split if it is too large; return its parts."""
    whole = folder / file.name
    stem = file.name.removesuffix(".gguf")
    source = whole if file.conversion is not None else file.parts[0]
    if len(file.parts) > 1:  # existing shards stay as they are
        paths = [shard_path(folder, stem, index, len(file.parts)) for index in range(len(file.parts))]
        for part, path in zip(file.parts, paths, strict=True):
            _copy(part, path)
        return paths
    if file.role != MMPROJ and source.stat().st_size > max_shard_size:  # a vision encoder loads from one file
        paths = shards.split(source, folder, max_shard_size, prefix=stem, force=True)
        if source == whole:
            with disk_errors(whole):
                whole.unlink()
        return paths
    if source != whole:
        _copy(source, whole)
    return [whole]


def _copy(source: Path, target: Path) -> None:
    with pending_file(target, force=True) as made, source.open("rb") as file:
        with disk_errors(made.part):
            copy_bytes(file, made.file, source.stat().st_size, source)
        made.finish()
        made.publish()
