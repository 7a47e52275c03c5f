"""Which lines of the parsers the inputs reach: `python tests/fuzz/reach.py` prints a table, by coverage.py."""

from __future__ import annotations

import importlib
import logging
import random
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz import corpus, mutation  # noqa: E402 - after the path
from fuzz.target import Fault, Target, try_input  # noqa: E402

MUTATIONS = 2000  # of each target, beside its corpus
LARGEST = 10_000  # bytes of the kept inputs of a target


def lines_of(target: Target, inputs: Iterable[bytes]) -> Iterator[tuple[bytes, set[tuple[str, int]]]]:
    """Yield inputs with the lines of the target's modules that they reach."""
    import coverage

    files = [str(Path(importlib.import_module(module).__file__ or "").resolve()) for module in target.modules]
    for data in inputs:
        measured = coverage.Coverage(data_file=None, include=files, messages=False)
        measured.start()
        with suppress(Fault):
            try_input(target, data)
        measured.stop()
        found = measured.get_data()
        yield data, {(file, line) for file in found.measured_files() for line in found.lines(file) or ()}


def keep_smallest(target: Target, folder: Path) -> None:
    """Keep the smallest inputs that together reach what all do, up to a size; named ones stay."""
    named = {name: data for name, data in corpus.kept(target).items() if not name.startswith("reach-")}
    seen: set[tuple[str, int]] = set()
    for _, lines in lines_of(target, [*target.seeds(), *named.values()]):
        seen |= lines
    chosen, size = dict(named), 0
    candidates = sorted((path.read_bytes() for path in folder.iterdir()), key=len)
    for data, lines in lines_of(target, candidates[:3000]):
        if not lines <= seen and size + len(data) <= LARGEST:
            seen |= lines
            size += len(data)
            chosen[f"reach-{len(chosen):02}"] = data
    if chosen:
        corpus.keep(target, chosen)


def measure(targets: Iterable[Target]) -> list[tuple[str, int, int, list[int]]]:
    """Return module, lines, reached lines and those that were not, over all inputs of the targets."""
    import coverage

    targets = list(targets)
    modules = sorted({module for target in targets for module in target.modules})
    files = {module: str(Path(importlib.import_module(module).__file__ or "").resolve()) for module in modules}
    measured = coverage.Coverage(data_file=None, include=list(files.values()), messages=False)
    for target in targets:
        inputs = list(corpus.inputs(target))
        chance = random.Random(target.name)
        inputs += [
            mutation.mutated(chance.choice(inputs), chance, target.words, target.longest) for _ in range(MUTATIONS)
        ]
        measured.start()
        for data in inputs:
            with suppress(Fault):
                try_input(target, data)
        measured.stop()
    found = []
    for module, file in files.items():
        _, statements, _, missing, _ = measured.analysis2(file)
        inside = _inside_of_functions(Path(file))
        wanted = [line for line in statements if line in inside]
        left = [line for line in missing if line in inside]
        found.append((module, len(wanted), len(wanted) - len(left), left))
    return found


def _inside_of_functions(path: Path) -> set[int]:
    """The lines of bodies: the others run once, when a module is imported."""
    import ast

    found: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= set(range(node.body[0].lineno, (node.end_lineno or 0) + 1))
    return found


def main() -> int:
    """Print a table of modules."""
    from fuzz.targets import TARGETS

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    names: list[Any] = sys.argv[1:] or list(TARGETS)
    total = reached = 0
    for module, lines, seen, left in measure(TARGETS[name] for name in names):
        total, reached = total + lines, reached + seen
        print(f"{module:66} {seen:4} of {lines:4}  {seen / max(1, lines):6.1%}  {' '.join(map(str, left[:12]))}")
    print(f"{'in total':66} {reached:4} of {total:4}  {reached / max(1, total):6.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
