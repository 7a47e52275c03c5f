"""`recipe.json`: how a release was made, so that it can be made again and compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from qwen35_gguf import __version__
from qwen35_gguf.convert.model_name import absolute, named_directory
from qwen35_gguf.convert.rounding import DIGEST_KEY
from qwen35_gguf.errors import PackageError
from qwen35_gguf.json_file import FLAG, NUMBER, SIZE, TEXT, JsonObject, list_of, read_json
from qwen35_gguf.quant.rounding.moments import RECORDED
from qwen35_gguf.quant.rounding.moments import read as read_moments
from qwen35_gguf.release import state as states
from qwen35_gguf.release.plan import IMATRIX, MAX_SHARD_SIZE, FromCheckpoint, OpenedCheckpoint, ReleasePlan
from qwen35_gguf.release.state import State

RECIPE = "recipe.json"
TOOL = f"qwen35-gguf {__version__}"
RENAMED = {"heads": "mtp_files", "plain": "nomtp_files"}  # options, as version 0.1 recorded them


@dataclass(frozen=True)
class Record:
    """What a release of a checkpoint recorded.

    Attributes:
        options: the importance matrix is that of the release's folder.
        headers_sha256: of the checkpoint; see `plan.headers_sha256`.
        weights_sha256: of the checkpoint.
        commit: of the checkpoint on the Hub; empty: it was a directory.
        tool: that made it, with its version.
        moments_sha256: digest of the moments that it was rounded by; empty: it was not.

    """

    options: FromCheckpoint
    headers_sha256: str
    weights_sha256: str
    commit: str = ""
    tool: str = TOOL
    moments_sha256: str = ""

    def with_moments(self, moments: str) -> FromCheckpoint:
        """Return the options with the moments, which the release does not include.

        Raises:
            PackageError: they are missing, or others than those of the release.

        """
        if not self.options.rounding:
            if moments:
                raise PackageError(f"{moments}: the release was made without moments; leave out --moments")
            return self.options
        if not moments:
            raise PackageError("the release was made with --rounding: give its moments with --moments")
        if read_moments(moments).digest != self.moments_sha256:
            raise PackageError(f"{moments}: are not the moments that the release was made with; give those")
        return replace(self.options, moments=moments)


def content(plan: ReleasePlan, state: State) -> bytes:
    """Make the content of `recipe.json`."""
    if plan.checkpoint is not None:
        found = _of_checkpoint(plan, plan.checkpoint, state)
    else:
        found = {"tool": TOOL, "files": _of_files(plan, state)}
    return (json.dumps(found, indent=2) + "\n").encode()


def is_record(path: Path) -> bool:
    """Whether a file is a `recipe.json` of this project, of any version."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and str(found.get("tool")).startswith("qwen35-gguf ")


def _of_checkpoint(plan: ReleasePlan, checkpoint: OpenedCheckpoint, state: State) -> dict[str, Any]:
    options = checkpoint.options
    public = replace(
        options,
        imatrix=IMATRIX if options.imatrix else "",
        moments="",
        model=checkpoint.source.repo or named_directory(absolute(Path(options.model))).name,
        adapters=tuple(adapter.repo or adapter.name for adapter in checkpoint.source.adapters),
    )
    return {
        "tool": TOOL,
        "checkpoint_revision": checkpoint.source.commit or "",
        "checkpoint_sha256": state.weights,
        "checkpoint_headers_sha256": checkpoint.headers_sha256,
        "imatrix_sha256": plan.metadata("quantize.imatrix.sha256"),
        "moments_sha256": plan.metadata(DIGEST_KEY),
        "recipe_sha256": plan.metadata("quantize.recipe.sha256"),
        "options": asdict(public),
    }


def _of_files(plan: ReleasePlan, state: State) -> list[dict[str, Any]]:
    """List the names that the files had, and their checksums now."""
    digests: dict[str, dict[str, str]] = {}
    for name, digest in state.files.items():
        digests.setdefault(states.whole_name(Path(name)), {})[name] = digest
    return [
        {"name": file.name, "source": [part.name for part in file.parts], "sha256": digests[file.name]}
        for file in plan.files
    ]


def how_it_was_made(plan: ReleasePlan, state: State) -> str:
    """Describe in a sentence, without its full stop, how the files were made."""
    if plan.checkpoint is None:
        return f"Packaged by {TOOL} from existing GGUF files, whose bytes are unchanged"
    options, commit = plan.checkpoint.options, plan.checkpoint.source.commit
    text = f"Made by {TOOL} from weights with the checksum `{state.weights[:16]}`"
    if commit:
        text += f", revision `{commit[:12]}`"
    if options.recipe:
        text += f", with the recipe {options.recipe} (`{plan.metadata('quantize.recipe.sha256')[:16]}`)"
    if options.imatrix:
        text += f", with the importance matrix `{IMATRIX}` (`{plan.metadata('quantize.imatrix.sha256')[:16]}`)"
    if options.rounding:
        text += f", rounded by second moments ({options.rounding}, `{plan.metadata(DIGEST_KEY)[:16]}`)"
    return text


def read_record(folder: Path) -> Record:
    """Read how a release of a checkpoint was made.

    Raises:
        PackageError: the folder is not a release, or one of existing GGUF files.

    """
    path = folder / RECIPE
    if not path.is_file():
        raise PackageError(f"{folder}: has no {RECIPE} that records how it was made; name the folder of a release")
    read = read_json(path, error=PackageError, advice="download it again")
    if "options" not in read:
        if "files" not in read:
            raise PackageError(f"{folder}: has no {RECIPE} that records how it was made; name the folder of a release")
        raise PackageError(
            f"{folder}: was made of GGUF files, not of a checkpoint; `qwen35 checksum` verifies that it is complete"
        )
    options = _options(read.section("options"))
    return Record(
        replace(options, imatrix=str(folder / IMATRIX)) if options.imatrix else options,
        read.get("checkpoint_headers_sha256", TEXT, ""),
        read.get("checkpoint_sha256", TEXT, ""),
        read.get("checkpoint_revision", TEXT, ""),
        read.get("tool", TEXT, ""),
        read.get("moments_sha256", TEXT, ""),
    )


def _options(read: JsonObject) -> FromCheckpoint:
    """Read the options of a release; those of other versions have other names."""
    read = replace(read, values={RENAMED.get(name, name): value for name, value in read.values.items()})
    if unknown := set(read.values) - {field.name for field in fields(FromCheckpoint)}:
        raise PackageError(
            f"{read.where}: {read.path} has {sorted(unknown)[0]}, of another version; make it with that version"
        )
    texts = list_of(TEXT)
    return FromCheckpoint(
        model=read.need("model", TEXT),
        quants=tuple(read.need("quants", texts)),
        revision=read.get("revision", TEXT, ""),
        name=read.get("name", TEXT, ""),
        recipe=read.get("recipe", TEXT, ""),
        imatrix=read.get("imatrix", TEXT, ""),
        rounding=read.get("rounding", RECORDED, ""),
        mtp=read.get("mtp", FLAG, True),
        mmproj_types=tuple(read.need("mmproj_types", texts)),
        mtp_files=read.get("mtp_files", FLAG, False),
        nomtp_files=read.get("nomtp_files", FLAG, False),
        max_shard_size=read.get("max_shard_size", SIZE, MAX_SHARD_SIZE),
        ignore_config=tuple(read.get("ignore_config", texts, [])),
        adapters=tuple(read.get("adapters", texts, [])),
        adapter_scales=tuple(read.get("adapter_scales", list_of(NUMBER), [])),
    )
