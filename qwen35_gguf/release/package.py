"""A release: every file that a publisher uploads, from one pass over a checkpoint, or around GGUF files that are there.

What is done is kept in a hidden file of the folder with its checksums, so that an interrupted run goes on; a folder
with other files, or begun with other options, is left alone.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qwen35_gguf import __version__
from qwen35_gguf.convert import hf_to_gguf, plan_files
from qwen35_gguf.convert.plan_files import PlannedFile
from qwen35_gguf.errors import PackageError
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.gguf_file.atomic_file import disk_errors
from qwen35_gguf.gguf_file.writer import check_space
from qwen35_gguf.release import checksums, from_gguf, model_card
from qwen35_gguf.release import measure as measuring
from qwen35_gguf.release import state as states
from qwen35_gguf.release.from_gguf import ReadyMade
from qwen35_gguf.release.lint import check_file
from qwen35_gguf.release.model_card import Origin
from qwen35_gguf.release.plan import DIGEST_KEY, IMATRIX, Options, Planned, hub_id, is_model, plan, signed, with_digest
from qwen35_gguf.release.state import State

RECIPE = "recipe.json"
REFERENCES = ("F32", "BF16", "F16")  # what divergence may be measured from, the most exact first
OTHERS = (RECIPE, IMATRIX, checksums.LIST, *model_card.NAMES)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Finish:
    """What a release needs beside its files.

    Attributes:
        text: that divergence is measured on; by default the packaged one.
        measure: the divergence of each model from the unquantized weights.
        lint: refuse files that would break for their users.
        license: of the model; empty: the checkpoint's.
        base_model: its id on the Hub; empty: where it came from.

    """

    text: Path | None = None
    measure: bool = True
    lint: bool = True
    license: str = ""
    base_model: str = ""


def package(
    options: Options, folder: Path, finish: Finish | None = None, *, jobs: int = 0, say: Say = lambda _: None
) -> list[Path]:
    """Make a release of a checkpoint, or go on with one.

    Args:
        options: what it is made of.
        folder: where.
        finish: what else it needs.
        jobs: threads.
        say: is told what is done.

    Returns:
        All files of the release.

    Raises:
        PackageError: the folder has foreign files or was begun with other options, or a file would not do.
        Qwen35Error: something cannot be made.

    """
    finish = finish or Finish()
    planned = plan(options, folder)
    said = asdict(options) | {"identity": planned.identity, "imatrix": planned.said("quantize.imatrix.sha256")}
    state = states.begin(folder, said, [file.path.name for file in planned.files], OTHERS)
    models = [file.path.name for file in planned.files if is_model(file)]
    unmeasured = [name for name in models if name not in state.figures] if finish.measure else []
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix=".qwen35-reference-") as scratch:
        reference = _reference(planned, Path(scratch)) if unmeasured else None
        room = measuring.logits_bytes(finish.text, _vocabulary(planned)) if unmeasured else 0
        convert(planned, folder, state, reference, max_shard_size=options.max_shard_size, room=room, jobs=jobs, say=say)
        if finish.lint:
            check(folder, [file.path.name for file in planned.files], state, jobs=jobs, say=say)
        if reference is not None:
            first = states.parts_of(reference.path.parent, reference.path.name)[0]
            measuring.measure(
                unmeasured, first, folder, state, text=finish.text, scratch=Path(scratch), jobs=jobs, say=say
            )
    bring_imatrix(options.imatrix, folder)
    checkpoint = planned.source.checkpoint.directory
    origin = Origin(
        front=model_card.front_matter(checkpoint / "README.md"),
        name=planned.said("general.name") or checkpoint.name,
        license=finish.license,
        base_model=finish.base_model or hub_id(options.model),
        how=how(options, planned, state),
        verifiable=True,
        imatrix=bool(options.imatrix),
    )
    names = [file.path.name for file in planned.files]
    return write_texts(folder, names, models, state, record(options, planned, state), origin, jobs=jobs)


def package_files(
    files: ReadyMade, folder: Path, finish: Finish | None = None, *, jobs: int = 0, say: Say = lambda _: None
) -> list[Path]:
    """Make a release around GGUF files that are there already: they are copied, or cut, and their bytes stay.

    Divergence is measured where one of them, or `files.reference`, has the unquantized weights. Otherwise as `package`.
    """
    finish = finish or Finish()
    planned = from_gguf.plan(files)
    state = states.begin(folder, from_gguf.identity(files, planned), [one.name for one in planned], OTHERS)
    models = [one for one in planned if one.kind == from_gguf.MODEL]
    from_gguf.copy(planned, folder, state, files.max_shard_size, say=say)
    if finish.lint:
        check(folder, [one.name for one in planned], state, jobs=jobs, say=say)
    exact = {one.quant: one.parts[0] for one in models if one.quant in REFERENCES}
    reference = Path(files.reference) if files.reference else next((exact[q] for q in REFERENCES if q in exact), None)
    unmeasured = [one.name for one in models if one.name not in state.figures] if finish.measure else []
    if unmeasured and reference is None:
        say("note: no divergence was measured: none of the files is in BF16, F16 or F32; name one with --reference")
    elif unmeasured and reference is not None:
        with tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix=".qwen35-reference-") as scratch:
            measuring.measure(
                unmeasured, reference, folder, state, text=finish.text, scratch=Path(scratch), jobs=jobs, say=say
            )
    bring_imatrix(files.imatrix, folder)
    origin = replace(
        from_gguf.origin(models[0]),
        how=f"Packaged by qwen35-gguf {__version__} from files that were there; their bytes are unchanged",
        imatrix=bool(files.imatrix),
    )
    origin = replace(
        origin, license=finish.license or origin.license, base_model=finish.base_model or origin.base_model
    )
    names = [one.name for one in planned]
    said = {"tool": f"qwen35-gguf {__version__}", "files": from_gguf.record(planned, state)}
    return write_texts(folder, names, [one.name for one in models], state, said, origin, jobs=jobs)


# ---- the steps ---------------------------------------------------------------------------------------------------


def convert(
    planned: Planned,
    folder: Path,
    state: State,
    reference: PlannedFile | None = None,
    *,
    max_shard_size: int,
    room: int = 0,
    jobs: int = 0,
    say: Say = lambda _: None,
) -> None:
    """Write what is missing, all of it in one pass over the checkpoint, and cut what is too large.

    Args:
        planned: the release.
        folder: where.
        state: is brought up to date.
        reference: the unquantized weights, to be written elsewhere in the same pass.
        max_shard_size: bytes.
        room: bytes that are needed later.
        jobs: threads.
        say: is told what is there.

    Raises:
        OutputError: there is no space, or a file cannot be written.

    """
    missing = states.to_be_made(folder, [file.path.name for file in planned.files], state, say)
    made = [
        with_digest(file, state.weights) if state.weights else file
        for file in planned.files
        if file.path.name in missing
    ]
    extra = [reference] if reference is not None and reference.path.parent != folder else []
    if not made and not extra:
        return
    # a file is whole beside its shards until it is cut, one at a time
    cut = max((file.nbytes for file in made if file.nbytes > max_shard_size), default=0)
    check_space(folder, sum(file.nbytes for file in [*made, *extra]) + cut + room)
    key = "" if state.weights else DIGEST_KEY
    found = hf_to_gguf.write_files(planned.source.checkpoint, [*made, *extra], jobs=jobs, digest_key=key)
    state.weights = state.weights or found
    paths: list[Path] = []
    for file in made:
        if file.arch != "clip" and file.path.stat().st_size > max_shard_size:  # towers load from one file
            paths += shards.split(file.path, folder, max_shard_size, force=True)
            file.path.unlink()
        else:
            paths.append(file.path)
    digests = checksums.digests(paths, jobs)
    state.files |= {path.name: digest for path, digest in zip(paths, digests, strict=True)}
    states.save(folder, state)


def _reference(planned: Planned, scratch: Path) -> PlannedFile:
    """Choose what divergence is measured from: a file of the release in BF16 or F32, or one that is made for it."""
    whole = {file.path.stem.rpartition("-")[2]: file for file in planned.files if is_model(file)}
    found = next((whole[type_] for type_ in ("F32", "BF16") if type_ in whole), None)
    if found is not None:
        return found
    made = plan_files.text_file(replace(planned.source, weights=None), "BF16", scratch)
    return replace(signed(made), path=scratch / "BF16.gguf")  # with a place for the checksum, as those it is made with


def _vocabulary(planned: Planned) -> int:
    return int(planned.source.checkpoint.text_config["vocab_size"])


def check(folder: Path, names: Sequence[str], state: State, *, jobs: int = 0, say: Say = lambda _: None) -> None:
    """Lint what was not linted yet.

    Raises:
        PackageError: a file would break for its users.

    """
    for name in names:
        if name in state.linted:
            continue
        found = check_file.lint(check_file.read_subject(states.parts_of(folder, name)[0]), jobs=jobs)
        for one in found:
            if one.severity == "warning":
                say(f"warning: {name}: {one.check}: {one.where}: {one.what}")
        errors = [one for one in found if one.severity == "error"]
        if errors:
            first = errors[0]
            raise PackageError(
                f"{folder / name}: would break for its users: {first.check}: {first.where}: {first.what}"
                f"{f' (and {len(errors) - 1} more)' if len(errors) > 1 else ''}; {first.advice}, or add --no-lint"
            )
        state.linted.append(name)
        states.save(folder, state)


def bring_imatrix(file: str, folder: Path) -> None:
    """Copy the importance matrix, if there is one, unless that was done before."""
    if file and not (folder / IMATRIX).exists():
        with disk_errors(folder / IMATRIX):
            shutil.copy(file, folder / IMATRIX)


def write_texts(
    folder: Path,
    names: Sequence[str],
    models: Sequence[str],
    state: State,
    said: dict[str, Any],
    origin: Origin,
    *,
    jobs: int = 0,
) -> list[Path]:
    """Write the card, the Modelfile, the recipe and the checksums; return all files of the release."""
    states.write_text(folder / RECIPE, json.dumps(said, indent=2) + "\n")
    whole = [(name, states.parts_of(folder, name)) for name in models]
    beside = [path for name in names if name not in models for path in states.parts_of(folder, name)]
    for name, content in model_card.texts(folder, whole, beside, figures=state.figures, origin=origin).items():
        states.write_text(folder / name, content)
    checksums.write(folder, known=state.files, jobs=jobs)
    return checksums.listed_files(folder)


# ---- how it was made ---------------------------------------------------------------------------------------------


def how(options: Options, planned: Planned, state: State) -> str:
    """Say in a sentence or two how the files were made, for the card."""
    said = f"Made by qwen35-gguf {__version__} from weights with the checksum `{state.weights[:16]}`"
    if planned.source.commit:
        said += f", revision `{planned.source.commit[:12]}`"
    if options.recipe:
        said += f", by the recipe {options.recipe} (`{planned.said('quantize.recipe.sha256')[:16]}`)"
    if options.imatrix:
        said += f", with the importance matrix that lies beside (`{planned.said('quantize.imatrix.sha256')[:16]}`)"
    return said


def record(options: Options, planned: Planned, state: State) -> dict[str, Any]:
    """Say how the release was made, so that `qwen35 verify-release` can make it again."""
    return {
        "tool": f"qwen35-gguf {__version__}",
        "checkpoint_revision": planned.source.commit or "",
        "checkpoint_sha256": state.weights,
        "checkpoint_headers_sha256": planned.identity,
        "imatrix_sha256": planned.said("quantize.imatrix.sha256"),
        "recipe_sha256": planned.said("quantize.recipe.sha256"),
        "options": asdict(options)
        | {"imatrix": IMATRIX if options.imatrix else "", "model": hub_id(options.model) or Path(options.model).name},
    }
