"""Fuzz one target in this process: `engine.py TARGET SECONDS FOLDER MODULE...`, as `run.py` starts it.

Inputs are chosen by the lines that they reach where atheris is installed, and at random otherwise. The folder gets
`inputs/`, what reached new lines; `faults/`, an input and a report for each fault; and `result.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

try:
    import atheris
except ImportError:
    atheris = None  # type: ignore[assignment]


class Session:
    """What was tried so far."""

    def __init__(self, target, folder: Path) -> None:
        self.target, self.folder = target, folder
        self.tried = self.accepted = 0
        self.faults: dict[str, str] = {}
        self.slowest = self._written = 0.0
        for name in ("inputs", "faults"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def one(self, data: bytes) -> None:
        """Try an input; a fault is recorded once for each place."""
        from fuzz.target import Fault, limit_memory, try_input

        limit_memory()  # anew: the memory of libFuzzer itself grows
        self.tried += 1
        start = time.process_time()
        try:
            self.accepted += try_input(self.target, data)
        except Fault as fault:
            if fault.place not in self.faults or len(data) < len(self._known(fault.place)):
                name = hashlib.sha256(fault.place.encode()).hexdigest()[:8]
                (self.folder / "faults" / name).write_bytes(data)
                (self.folder / "faults" / f"{name}.txt").write_text(str(fault), encoding="utf-8", errors="replace")
                self.faults[fault.place] = name
        self.slowest = max(self.slowest, time.process_time() - start)
        if time.monotonic() > self._written + 1:
            self.write()

    def _known(self, place: str) -> bytes:
        return (self.folder / "faults" / self.faults[place]).read_bytes()

    def write(self) -> None:
        """Write what is known; libFuzzer ends the process without a last call."""
        self._written = time.monotonic()
        found = {"tried": self.tried, "accepted": self.accepted, "faults": self.faults, "slowest": self.slowest}
        new = self.folder / "result.json.part"  # the process may be ended at any moment
        new.write_text(json.dumps(found | {"guided": atheris is not None}))
        new.replace(self.folder / "result.json")


def main(name: str, seconds: int, folder: Path, modules: list[str]) -> None:
    """Fuzz a target, guided by the lines of its modules."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    guided = atheris.instrument_imports(include=modules, enable_loader_override=False) if atheris else None
    with guided or contextlib.nullcontext():
        from fuzz.targets import TARGETS
    from fuzz import corpus, mutation

    target = TARGETS[name]
    session = Session(target, folder)
    for data in corpus.inputs(target):
        (folder / "inputs" / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        session.one(data)
    if atheris is None:
        _at_random(session, seconds)
        return

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.5:
            return atheris.Mutate(data, longest)  # type: ignore[no-any-return]
        return mutation.mutated(data, chance, target.words, longest)

    options = [f"-max_total_time={seconds}", f"-max_len={target.longest}", "-timeout=600", "-rss_limit_mb=3000"]
    options += ["-print_final_stats=0", f"-artifact_prefix={folder}/faults/native-", "-verbosity=0", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options, str(folder / "inputs")], session.one, custom_mutator=mutate)
    atheris.Fuzz()


def _at_random(session: Session, seconds: int) -> None:
    from fuzz import mutation

    chance = random.Random()
    inputs = [path.read_bytes() for path in (session.folder / "inputs").iterdir()]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        session.one(mutation.mutated(chance.choice(inputs), chance, session.target.words, session.target.longest))
    session.write()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).resolve(), sys.argv[4:])
