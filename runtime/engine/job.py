"""A request as the engine takes it: token ids, a sampler, and functions that are called meanwhile."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.drafts.drafted_text import DraftedText
from qwen35_gguf.runtime.engine.drafts.mtp import Drafts
from qwen35_gguf.runtime.engine.forest.live_sequence import LiveSequence
from qwen35_gguf.runtime.engine.forest.prefix_cache import Item, SequenceState
from qwen35_gguf.runtime.engine.forest.reuse import PromptReuse
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk, Prompt, n_cells
from qwen35_gguf.runtime.engine.sampling import Sampler
from qwen35_gguf.runtime.engine.scope import in_scope

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
End = Literal["stopped", "limit", "full"]
Phase = Literal["waiting", "prompt", "answer", "suspended", "over"]


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        end: "stopped": by `take`; "limit": of its tokens; "full": the context is.
        reuse: what of the prompt was reused; None: it was not begun.
        prompt_cells: of the whole prompt.
        reused_cells: of these, those that were not evaluated again.
        prompt_seconds: from its turn to its first token.
        seconds: from then to the last.
        drafts: counts.

    """

    end: End
    reuse: PromptReuse | None
    prompt_cells: int
    reused_cells: int
    prompt_seconds: float
    seconds: float
    drafts: Drafts


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Let what fails at the end of a request harm no other one."""
    try:
        yield
    except Exception:
        log.exception("the end of a request failed")


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Job:
    """What is asked. All functions are called in the thread that runs the engine, between two steps.

    Attributes:
        prompt: token ids and media chunks; the last item is a token.
        sampler: chooses; it counts every token, and is closed when the job is over.
        limit: tokens at most, without those that `take` adds.
        take: is called with each token; it returns tokens that follow in place of sampled ones, or None to end here.
        done: is called once, with the outcome, or with the error that ended it.
        progress: is called with the cells of the prompt that are evaluated, and those of the whole prompt.
        wants: whether more tokens are welcome; a job that wants none is paused.
        yields: whether a paused job gives way to others that wait.
        streams: whether it is read piece by piece.
        depth: tokens drafted in each step; None: that of the engine.
        follow: returns what the next prompt of the conversation begins with, once the job is done; None if that is not
            known.
        scope: what is known of other prompts is reused only if they are of the same one.

    """

    prompt: Prompt
    sampler: Sampler
    limit: int
    take: Callable[[int], Sequence[int] | None]
    done: Callable[[Outcome | Exception], None] = _nothing
    progress: Progress = _nothing
    wants: Callable[[], bool] = lambda: True
    yields: Callable[[], bool] = lambda: True
    streams: bool = False
    depth: Depth | None = None
    follow: Callable[[], Prompt | None] | None = None
    scope: str | None = None


@dataclass(eq=False)
class Run:
    """How far a job is.

    Attributes:
        job: what is asked.
        phase: where it is.
        cancelled: it ends before the next call.
        items: of the prompt, as they are compared.
        total: cells of the prompt.
        sequence: in which it runs.
        known: tokens that follow and are not evaluated yet.
        number: tokens so far, without those that `take` added.
        stops: places in the prompt where calls end.
        kept: of these, where recurrent states are kept.
        messages: of these, where whole states may be saved.
        rows: of the next image, those that are evaluated.
        saved: what it had in the engine when it gave way.
        reuse: what of the prompt was reused.
        reused: cells.
        held: since when it waits for prompts that came with it; 0: it does not.
        began: when its turn came, of `time.perf_counter`.
        evaluated: when the prompt was.
        stepped: when its last token came; 0 before the first, and while nobody reads.
        drafts: counts.
        text: what its drafts go by; None before the first.
        encoding: whether an image of it is being encoded.
        error: of that.

    """

    job: Job
    phase: Phase = "waiting"
    cancelled: bool = False
    items: list[Item] = field(default_factory=list)
    total: int = 0
    sequence: LiveSequence | None = None
    known: list[int] = field(default_factory=list)
    number: int = 0
    stops: list[int] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)
    messages: set[int] = field(default_factory=set)
    rows: int = 0
    saved: SequenceState | None = None
    reuse: PromptReuse | None = None
    reused: int = 0
    held: float = 0.0
    began: float = 0.0
    evaluated: float = 0.0
    stepped: float = 0.0
    drafts: Drafts = field(default_factory=Drafts)
    text: DraftedText | None = None
    encoding: bool = False
    error: Exception | None = None

    def __post_init__(self) -> None:
        items = [item.key if isinstance(item, MediaChunk) else item for item in self.job.prompt]
        self.items = in_scope(items, self.job.scope)
        self.total = n_cells(self.job.prompt)

    @property
    def live(self) -> LiveSequence:
        """The sequence in which it runs."""
        assert self.sequence is not None
        return self.sequence

    def outcome(self, end: End, now: float) -> Outcome:
        """Return what became of it."""
        prompt = self.evaluated - self.began
        seconds = now - self.evaluated
        return Outcome(end, self.reuse, self.total, self.reused, prompt, seconds, self.drafts)
