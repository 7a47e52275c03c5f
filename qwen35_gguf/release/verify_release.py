"""Make a release again, and compare every byte."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qwen35_gguf.errors import PackageError
from qwen35_gguf.release import checksums
from qwen35_gguf.release.folder_check import OTHERS
from qwen35_gguf.release.plan import plan_release
from qwen35_gguf.release.record import RECIPE, read_record
from qwen35_gguf.release.state import State
from qwen35_gguf.release.write_files import write_files


def verify(
    folder: Path,
    against: str,
    *,
    revision: str = "",
    moments: str = "",
    jobs: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Make a release again beside its folder and compare; return what differs, a line each.

    Args:
        folder: the release.
        against: the checkpoint.
        revision: on the Hub.
        moments: of a release that was rounded by them.
        jobs: threads; 0 for one a core.
        say: is called with what is done.

    Raises:
        PackageError: the folder is not a release, was made of GGUF files, or of another checkpoint.
        Qwen35Error: a file cannot be read or made.

    """
    record = read_record(folder)
    options = record.with_moments(moments)
    problems = [f"{one.name}: {one.problem}" for one in checksums.verify(folder, jobs=jobs) if one.problem]
    listed = checksums.read_list(folder)
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix=".qwen35-verify-") as scratch:
        again = Path(scratch)
        plan = plan_release(replace(options, model=against, revision=revision), again)
        if plan.checkpoint is None or plan.checkpoint.headers_sha256 != record.headers_sha256:
            raise PackageError(f"{against}: is not the checkpoint that the release was made of; name that one")
        state = State({})
        write_files(plan, again, state, jobs=jobs, say=say)
        if state.weights != record.weights_sha256:
            problems.append(f"{RECIPE}: names other weights than those of {against}")
        for name, digest in sorted(state.files.items()):
            # the list was compared with the files above
            if not (folder / name).is_file():
                problems.append(f"{name}: is missing")
            elif listed.get(name) != digest:
                problems.append(f"{name}: is not what this checkpoint gives")
            else:
                say(f"{name}: identical")
        for path in checksums.listed_files(folder):
            name = path.relative_to(folder).as_posix()
            if name in state.files or name in OTHERS:
                continue
            if path.suffix == ".gguf":
                problems.append(f"{name}: is not part of the release")
            else:
                say(f"note: {name}: is not part of the release")
    return list(dict.fromkeys(problems))
