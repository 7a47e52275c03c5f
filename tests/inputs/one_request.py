"""A scheduler with one request at a time: evaluate a prompt, then generate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.drafts.mtp import Drafts
from qwen35_gguf.runtime.engine.forest.prefix_cache import PrefixCache
from qwen35_gguf.runtime.engine.forest.reuse import CacheInfo, PromptReuse
from qwen35_gguf.runtime.engine.job import Job, Outcome, Progress
from qwen35_gguf.runtime.engine.media_chunk import Prompt
from qwen35_gguf.runtime.engine.sampling import Sampler, Sampling
from qwen35_gguf.runtime.engine.scheduler import Scheduler
from qwen35_gguf.runtime.llama.library import Closing


class OneRequest(Closing):
    """Runs jobs one after another, as `prefill` and `generate`.

    Attributes:
        scheduler: what runs them.
        drafts: counts of the last generation.

    """

    def __init__(self, model: Any, spec: Any, **options: Any) -> None:
        self.model = model
        self.scheduler = Scheduler(model, spec, **options)
        self.main = self.scheduler.main
        self.drafts = Drafts()
        self._prompt: Prompt = []
        self._last: PromptReuse | None = None

    def close(self) -> None:
        self.scheduler.close()

    @property
    def cache(self) -> PrefixCache:
        return self.scheduler.forest.cache

    def info(self) -> CacheInfo:
        """What is held, and what became of the prompt of the last `prefill`."""
        return replace(self.scheduler.info(), last=self._last)

    def prefill(self, prompt: Prompt, progress: Progress = lambda *_: None) -> int:
        """Evaluate a prompt; return the cells that were reused."""
        self._prompt = list(prompt)
        sampler = Sampler(self.model, Sampling(temperature=0), 0)
        outcome = self._run(Job(prompt, sampler, 0, lambda _: (), progress=progress))
        self._last = outcome.reuse
        return outcome.reused_cells

    def generate(
        self,
        sampler: Sampler,
        *,
        limit: int,
        depth: Depth | None = None,
        stop: int | None = None,
        force: Callable[[int], Sequence[int]] = lambda _: (),
    ) -> list[int]:
        """Generate after the prompt; up to `stop` tokens are taken, and `force` gives what follows the n-th one."""
        found: list[int] = []

        def take(token: int) -> Sequence[int] | None:
            found.append(token)
            if len(found) == stop:
                return None
            following = list(force(len(found)))
            found.extend(following)
            return following

        self.drafts = self._run(Job(self._prompt, sampler, limit, take, depth=depth)).drafts
        return found

    def _run(self, job: Job) -> Outcome:
        results: list[Outcome | Exception] = []
        self.scheduler.run(Job(**{**vars(job), "done": results.append}))
        (result,) = results
        if isinstance(result, Exception):
            raise result
        return result
