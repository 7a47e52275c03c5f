"""Compare a GGUF file with its checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from qwen35_gguf.commands import output
from qwen35_gguf.commands.conversion_options import adapter_options
from qwen35_gguf.commands.names.aliases import renamed_option
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.convert import hub, verify
from qwen35_gguf.errors import MissingDependencyError, ModelError
from qwen35_gguf.evaluation.parity import Parity, check_oracle, compare_with_checkpoint, oracle_installed, parts_needed
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.cpu_threads import default_threads


@click.command("verify", cls=Verb)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--against", required=True, help="The checkpoint: a directory or a Hub id.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@adapter_options
@renamed_option(
    "--parity/--no-parity",
    old=["--behaviour/--no-behaviour"],
    default=None,
    help="Also compare outputs with transformers; by default if that is installed and memory suffices.",
)
def command(
    file: Path,
    against: str,
    revision: str | None,
    adapters: tuple[str, ...],
    adapter_scales: tuple[float, ...],
    parity: bool | None,
) -> None:
    """Compare FILE with the checkpoint it was made from; exit code 0 if everything passes, 1 otherwise.

    Tensors through the inverses of the conversion; then logits, MTP drafts and image embeddings against transformers.
    """
    if parity:
        check_oracle()
    console = output.console(highlight=False, soft_wrap=True)
    results = []
    for result in verify.verify(file, against, revision, adapters=adapters, adapter_scales=adapter_scales):
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
    if adapters:  # transformers runs the checkpoint without them
        parity = False
    outputs = _compare_outputs(console, file, against, revision, parity) if not failed and parity is not False else []
    different = any(not one.passed for one in outputs)
    verdict = f"FAIL, {failed} tensors differ" if failed else "FAIL, its outputs differ" if different else "PASS"
    output.echo(f"{file}: {verdict}")
    output.emit(
        {
            "file": str(file),
            "passed": not (failed or different),
            "tensors": [asdict(one) | {"passed": one.passed} for one in results],
            "outputs": [asdict(one) for one in outputs],
        }
    )
    if failed or different:
        raise SystemExit(1)


def _compare_outputs(
    console: Console, file: Path, against: str, revision: str | None, wanted: bool | None
) -> list[Parity]:
    """Print a line for each comparison, and return them. What is missing is an error only if `wanted`."""
    if wanted is None and (not oracle_installed() or read_header(file).architecture == "clip"):
        return []
    found = []
    try:
        directory = hub.resolve(against, revision, parts_needed(file)).directory
        for one in compare_with_checkpoint(file, directory, threads=default_threads()):
            found.append(one)
            console.print(f"{'' if one.passed else 'FAIL '}{one.output}: {one.figures}", markup=False)
    except (MissingDependencyError, ModelError) as error:
        if wanted:
            raise
        output.note(f"parity not tested: {error}")
    return found
