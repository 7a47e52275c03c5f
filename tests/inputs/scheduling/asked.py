"""Requests for a scheduler on the mock model, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen35_gguf.runtime.engine.job import Job, Outcome, Run
from qwen35_gguf.runtime.engine.sampling import Sampler, Sampling
from qwen35_gguf.runtime.engine.scheduler import Scheduler

GREEDY = Sampling(temperature=0.0)


@dataclass
class Asked:
    """A request, greedy by default, and what came of it; it runs once it is added.

    Attributes:
        prompt: items.
        limit: tokens of the answer.
        sampling: how they are chosen.
        seed: of the choice.
        wanted: False lets it give way.
        tokens: of the answer.
        results: an outcome or an error; one, in the end.
        run: of the scheduler, once it is added.

    """

    prompt: list[Any]
    limit: int = 10
    sampling: Sampling = GREEDY
    seed: int = 0
    wanted: bool = True
    tokens: list[int] = field(default_factory=list)
    results: list[Outcome | Exception] = field(default_factory=list)
    run: Run | None = None

    def add(self, to: Scheduler, **options: Any) -> Run:
        """Add it to a scheduler, with further options of a `Job`, or others in place of its own."""
        given: dict[str, Any] = {"done": self.results.append, "wants": lambda: self.wanted, **options}
        sampler = Sampler(to.model, self.sampling, self.seed)
        self.run = to.add(Job(self.prompt, sampler, self.limit, self.take, **given))
        return self.run

    def take(self, token: int) -> Sequence[int] | None:
        """Take a token; return what is to follow it, None to end."""
        self.tokens.append(token)
        return ()

    @property
    def outcome(self) -> Outcome:
        """The result, which must be an outcome."""
        (result,) = self.results
        assert isinstance(result, Outcome)
        return result


def finish(one: Scheduler, before: Callable[[int], object] = lambda _: None) -> None:
    """Step until nothing runs; `before` is called with the number of each step."""
    for number in range(10_000):
        before(number)
        if not one.step() and not one.waits and not one._runs:
            return
    raise AssertionError("it does not end")
