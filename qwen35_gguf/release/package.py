"""A release: every file that a publisher uploads, from one pass over a checkpoint or from existing GGUF files.

The steps, in order: plan, write (convert or copy, and split), lint, measure, describe, checksums. Each records what is
complete, so that an interrupted release resumes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qwen35_gguf.atomic_file import discard, disk_errors
from qwen35_gguf.convert import plan_files
from qwen35_gguf.convert.plan_files import PlannedFile
from qwen35_gguf.errors import PackageError
from qwen35_gguf.evaluation import kl_divergence
from qwen35_gguf.evaluation.size_plot import plotting_installed
from qwen35_gguf.release import checksums, extend, folder_check, from_gguf, place, record
from qwen35_gguf.release import measure as checks
from qwen35_gguf.release import plan as planning
from qwen35_gguf.release import state as states
from qwen35_gguf.release.card import model_card
from qwen35_gguf.release.card.model_card import Card
from qwen35_gguf.release.from_gguf import FromGguf
from qwen35_gguf.release.lint import check_file
from qwen35_gguf.release.measure import logits_bytes, measure
from qwen35_gguf.release.plan import IMATRIX, FromCheckpoint, OpenedCheckpoint, ReleaseFile, ReleasePlan
from qwen35_gguf.release.state import State
from qwen35_gguf.release.write_files import Scratch, write_files

# What KL divergence may be measured from, the most exact first. A checkpoint can be converted to BF16 at any time.
UNQUANTIZED = ("F32", "BF16", "F16")
EXACT = ("F32", "BF16")

Say = Callable[[str], None]
Reference = ReleaseFile | PlannedFile | Path  # a file of the release; one that is converted for this; an existing GGUF


@dataclass(frozen=True)
class PackageOptions:
    """What is done with the files of a release.

    Attributes:
        text: files that KL divergence is measured on; by default the packaged text.
        measure: measure the KL divergence of each model from the unquantized weights.
        lint: refuse files that would break for their users.
        license: of the model; empty: what the weights declare.
        base_model: its id on the Hub; empty: where the weights came from.
        force: replace files of the release that were changed, or that it did not make.

    """

    text: Path | tuple[Path, ...] | None = None
    measure: bool = True
    lint: bool = True
    license: str = ""
    base_model: str = ""
    force: bool = False


def package(
    source: FromCheckpoint | FromGguf,
    folder: Path,
    options: PackageOptions | None = None,
    *,
    jobs: int = 0,
    say: Say = lambda _: None,
) -> list[Path]:
    """Make a release, or resume an interrupted one.

    Args:
        source: what it is made from.
        folder: of the release.
        options: what is done with the files.
        jobs: threads; 0 for one a core.
        say: is called with what is done.

    Returns:
        All files of the release.

    Raises:
        PackageError: the folder has foreign files or was begun with other options, or a file does not pass.
        Qwen35Error: something cannot be made.

    """
    options = options or PackageOptions()
    inputs = [source.imatrix, *(source.files if isinstance(source, FromGguf) else ())]  # refused with better words
    folder_check.refuse_foreign_folder(folder, [Path(one) for one in inputs if one], force=options.force)
    plan = plan_release(source, folder)
    state = states.begin(folder, plan.inputs)
    return _make(plan, folder, state, options, jobs=jobs, say=say)


def add(
    folder: Path,
    model: str,
    quants: Sequence[str],
    options: PackageOptions | None = None,
    *,
    revision: str = "",
    moments: str = "",
    jobs: int = 0,
    say: Say = lambda _: None,
) -> list[Path]:
    """Add quants to a finished release of a checkpoint, which keeps its options, files, and edited card.

    Args:
        folder: of the release.
        model: its checkpoint.
        quants: names of quantization presets that it does not have.
        options: what is done with the files.
        revision: on the Hub; by default the one of the release.
        moments: of a release that was rounded by them.
        jobs: threads; 0 for one a core.
        say: is called with what is done.

    Returns:
        All files of the release.

    Raises:
        PackageError: the folder is not such a release, or the checkpoint is another one.
        Qwen35Error: something cannot be made.

    """
    plan = plan_release(extend.extended(folder, model, quants, revision=revision, moments=moments), folder)
    made_here = (folder / states.STATE).exists()
    state = states.begin(folder, plan.inputs, extends=True) if made_here else extend.adopt(folder, plan)
    extend.check_finished(folder, plan, state)
    if not made_here:
        states.save(folder, state)
    return _make(plan, folder, state, options or PackageOptions(), jobs=jobs, say=say)


def _make(plan: ReleasePlan, folder: Path, state: State, options: PackageOptions, *, jobs: int, say: Say) -> list[Path]:
    """Make what is missing of a release."""
    for note in plan.notes:
        say(f"note: {note}")
    folder_check.check(folder, plan, state, force=options.force)
    state.license, state.base_model = options.license or state.license, options.base_model or state.base_model
    unmeasured = [file.name for file in plan.models if file.name not in state.figures] if options.measure else []
    reference: Reference | None = choose_reference(plan) if unmeasured else None
    if unmeasured and (reference is not None or plan.checkpoint is not None):
        checks.check(options.text)
        if isinstance(reference, Path):
            kl_divergence.check_vocabularies([file.parts[0] for file in plan.models if file.parts], reference)
        if not plotting_installed():
            say("note: the card gets no plot: matplotlib is not installed (pip install matplotlib)")
    with (
        _begun(folder, plan, state),
        tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix=".qwen35-reference-") as name,
    ):
        scratch = Path(name)
        if reference is None and plan.checkpoint is not None and unmeasured:
            reference = _convert_reference(plan.checkpoint, scratch)
        extra = reference if isinstance(reference, PlannedFile) else None
        nbytes = logits_bytes(options.text, plan.vocabulary) if reference is not None else 0
        write_files(plan, folder, state, Scratch(extra, nbytes), jobs=jobs, say=say)
        if options.lint:
            lint(folder, [file.name for file in plan.files], state, jobs=jobs, say=say)
        if reference is not None:
            path = _locate(reference, folder)
            measure(unmeasured, path, folder, state, text=options.text, scratch=scratch, jobs=jobs, say=say)
        elif unmeasured:
            say("note: KL divergence was not measured: no file is in BF16, F16 or F32; name one with --reference")
        return describe(plan, folder, state, options, scratch, jobs=jobs, say=say)


@contextlib.contextmanager
def _begun(folder: Path, plan: ReleasePlan, state: State) -> Iterator[None]:
    """Record which files are being made; after an error before the first is complete, nothing of it is left."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    first = not (folder / states.STATE).exists()
    state.begun = sorted({*state.begun, *(file.name for file in plan.files)})
    states.save(folder, state)
    try:
        yield
    except BaseException:
        if first and not state.files and not any(folder.glob("*.gguf")):
            discard(folder / states.STATE)
        raise


def plan_release(source: FromCheckpoint | FromGguf, folder: Path) -> ReleasePlan:
    """Plan a release of either kind.

    Raises:
        PackageError: it cannot be made, or an existing file is in the release's own folder.
        Qwen35Error: a file cannot be read.

    """
    if isinstance(source, FromCheckpoint):
        return planning.plan_release(source, folder)
    plan = from_gguf.plan_release(source)
    for part in (part for file in plan.files for part in file.parts):
        if part.resolve().parent == folder.resolve():
            raise PackageError(f"{part}: is in the release's own folder; choose another one with -o")
    return plan


# ---- the steps ---------------------------------------------------------------------------------------------------


def choose_reference(plan: ReleasePlan) -> ReleaseFile | Path | None:
    """Choose the unquantized weights: the GGUF that is named, or the most exact model of the release; None: neither."""
    if plan.reference:
        return Path(plan.reference)
    by_quant = {file.quant: file for file in plan.models}
    accepted = UNQUANTIZED if plan.checkpoint is None else EXACT
    return next((by_quant[quant] for quant in accepted if quant in by_quant), None)


def _convert_reference(checkpoint: OpenedCheckpoint, scratch: Path) -> PlannedFile:
    """Plan a conversion to BF16 beside the release; like all files of the pass it has a place for the checksum."""
    planned = plan_files.text_file(replace(checkpoint.source, weights=None, rounding=None), "BF16", scratch)
    return replace(planning.signed(planned), path=scratch / "BF16.gguf")


def _locate(reference: Reference, folder: Path) -> Path:
    """Return the reference's GGUF, or its first shard."""
    if isinstance(reference, ReleaseFile):
        return states.parts_of(folder, reference.name)[0]
    return reference.path if isinstance(reference, PlannedFile) else reference


def lint(folder: Path, names: Sequence[str], state: State, *, jobs: int = 0, say: Say = lambda _: None) -> None:
    """Check the files that have not passed yet.

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


def describe(
    plan: ReleasePlan,
    folder: Path,
    state: State,
    options: PackageOptions,
    scratch: Path,
    *,
    jobs: int = 0,
    say: Say = lambda _: None,
) -> list[Path]:
    """Include the importance matrix; write recipe.json, the card, the Modelfile and the checksums; return all files.

    Raises:
        OutputError: a file cannot be written.

    """
    made: dict[str, bytes] = {record.RECIPE: record.content(plan, state)}
    if plan.imatrix and not (folder / IMATRIX).exists():
        made[IMATRIX] = Path(plan.imatrix).read_bytes()
    card = Card(
        origin=replace(
            plan.origin,
            license=state.license or plan.origin.license,
            base_model=state.base_model or plan.origin.base_model,
        ),
        files=tuple((file, tuple(states.parts_of(folder, file.name))) for file in plan.files),
        figures=state.figures,
        how=record.how_it_was_made(plan, state),
        reproducible=plan.checkpoint is not None,
        imatrix=bool(plan.imatrix),
    )
    made |= model_card.contents(card, scratch)
    place.place(folder, state, made, force=options.force, say=say)
    checksums.write(folder, known=state.files, jobs=jobs, force=True)
    return checksums.listed_files(folder)
