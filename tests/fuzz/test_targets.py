"""Every parser refuses what is damaged by one of the project's errors, in time, and within its memory.

The fast suite runs the kept inputs and a few random ones; `make fuzz` looks for more.
"""

from __future__ import annotations

import importlib
import logging
import random
from collections.abc import Iterator

import pytest

from fuzz import corpus, mutation
from fuzz.target import Fault, Target, try_input
from fuzz.targets import TARGETS

pytestmark = pytest.mark.filterwarnings("ignore")
MUTATIONS, MANY = 25, 3000


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def tried(target: Target, mutations: int) -> int:
    """Run a target on its corpus, and on changes of it; return the number of accepted inputs."""
    for package in target.needs:
        pytest.importorskip(package)
    inputs = list(corpus.inputs(target))
    chance = random.Random(target.name)
    inputs += [mutation.mutated(chance.choice(inputs), chance, target.words, target.longest) for _ in range(mutations)]
    return sum(try_input(target, data) for data in inputs)


@pytest.mark.unit
@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_and_a_few_changes_of_them(name: str) -> None:
    assert tried(TARGETS[name], MUTATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_changes(name: str) -> None:
    assert tried(TARGETS[name], MANY)


@pytest.mark.unit
def test_modules_of_targets_exist() -> None:
    for target in TARGETS.values():
        for module in target.modules:
            if not target.needs:
                assert importlib.import_module(module).__file__


@pytest.mark.unit
def test_kept_inputs_are_few() -> None:
    assert sum(path.stat().st_size for path in corpus.FOLDER.iterdir()) < 300_000


def _loop(_data: bytes) -> None:
    while True:
        pass


def test_what_a_parser_must_not_do_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.target.SECONDS", 0.05)
    for run, place in ((lambda _: 1 / 0, "ZeroDivisionError"), (_loop, "TooSlowError"), (lambda _: int("x"), "Value")):
        with pytest.raises(Fault, match=place):
            try_input(Target("x", run, list, ()), b"")
