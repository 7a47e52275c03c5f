"""Compare a GGUF file with its checkpoint."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from qwen35_gguf import progress
from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.convert import hub, verify
from qwen35_gguf.errors import MissingDependencyError, ModelError
from qwen35_gguf.evaluation import parity
from qwen35_gguf.gguf_file.header import read_header
from qwen35_gguf.runtime.llama.library import default_threads


@click.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--against", required=True, help="The checkpoint: a directory or a Hub id.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option(
    "--behaviour/--no-behaviour",
    default=None,
    help="Also compare what it computes with transformers; by default if that is installed and memory suffices.",
)
@reports_errors
def command(file: Path, against: str, revision: str | None, behaviour: bool | None) -> None:
    """Compare FILE with the checkpoint it was made from; exit code 0 if everything passes, 1 otherwise.

    Tensors through the inverses of the conversion; then logits, MTP drafts and image embeddings against transformers.
    """
    console = Console(highlight=False, soft_wrap=True)
    results = []
    for result in verify.verify(file, against, revision):
        results.append(result)
        if not result.passed:
            reason = result.problem or f"relative error {result.error:.3g} exceeds {result.limit:.3g}"
            console.print(f"FAIL {result.name} ({result.type}): {reason}")
    by_type: dict[str, list[verify.Comparison]] = {}
    for result in results:
        by_type.setdefault(result.type, []).append(result)
    for type_, group in sorted(by_type.items()):
        worst = max(result.error for result in group)
        equal = sum(result.exact for result in group)
        console.print(f"{type_:8} {len(group):4} tensors, {equal:4} equal to the bit, worst relative error {worst:.2e}")
    failed = sum(not result.passed for result in results)
    different = _behaves(console, file, against, revision, behaviour) if not failed and behaviour is not False else 0
    verdict = (
        f"FAIL, {failed} tensors differ" if failed else "FAIL, it computes something else" if different else "PASS"
    )
    progress.say(f"{file}: {verdict}")
    if failed or different:
        raise SystemExit(1)


def _behaves(console: Console, file: Path, against: str, revision: str | None, wanted: bool | None) -> int:
    """Print a line for each comparison; how many failed. Unless it was asked for, what is missing is no error."""
    if wanted is None and (not parity.installed() or read_header(file).architecture == "clip"):
        return 0
    failed = 0
    try:
        for one in parity.check(file, hub.resolve(against, revision)[0], threads=default_threads()):
            failed += not one.passed
            console.print(f"{'' if one.passed else 'FAIL '}{one.what}: {one.said}", markup=False)
    except (MissingDependencyError, ModelError) as error:
        if wanted:
            raise
        progress.say(f"behaviour not compared: {error}")
    return failed
