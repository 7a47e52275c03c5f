"""Evaluate prompts in chunks: what of them is known, where calls end, what is kept."""

from __future__ import annotations

from collections.abc import Sequence

from qwen35_gguf.runtime.engine.chunk_size import LEAST
from qwen35_gguf.runtime.engine.forest.forest import Forest
from qwen35_gguf.runtime.engine.forest.live_sequence import LiveSequence
from qwen35_gguf.runtime.engine.forest.prefix_cache import EVERY, boundaries
from qwen35_gguf.runtime.engine.forest.reuse import find_source, useful_stops
from qwen35_gguf.runtime.engine.job import Run
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk, Place
from qwen35_gguf.runtime.llama.batch import Part
from qwen35_gguf.runtime.llama.context import Context

# Tokens before the last message of a prompt that continues another one: these are evaluated in as few calls as can be,
# since a call costs as much as several tokens. A state inside of them would save less than it costs.
NEAR = 256
END = 32  # tokens at most of the last call of a prompt that waits for others


class Prefill:
    """Evaluates the prompts of runs."""

    def __init__(self, main: Context, forest: Forest, message_start: int | None, *, exact: bool = False) -> None:
        """Use a context.

        Args:
            main: of the main model.
            forest: what is known of earlier prompts.
            message_start: the token that begins a message: states are copied before it.
            exact: end calls where they would end if nothing of a prompt were known.

        """
        self._main, self._forest, self._message_start, self._exact = main, forest, message_start, exact

    def warm_up(self) -> None:
        """Make a call in an empty context: the weights are read, threads are started."""
        self._main.evaluate([0] * min(LEAST, self._main.n_batch), 0, outputs=1)
        self._main.logits(-1)
        self._main.clear()

    def wait(self) -> None:
        """Wait until the last call is computed."""
        self._main.wait()

    def begin(self, run: Run, sequence: LiveSequence) -> None:
        """Let a run take a sequence, and find what of its prompt is known."""
        run.sequence = sequence
        items = run.items
        source, run.reuse = self._forest.prepare(sequence, items)
        run.reused, start = sequence.cells, len(sequence.items)
        stops = boundaries(items, self._message_start, max(EVERY, self._main.n_batch))
        messages = [stop for stop in stops if items[stop] == self._message_start]
        sequence.n_prompt = (messages or stops or [len(items)])[-1]
        stops = [stop for stop in stops if stop > start]
        if start and not self._exact:
            known, last = source.shared, sequence.n_prompt
            stops = [stop for stop in stops if stop <= known or not last - NEAR < stop < last]
        run.kept = useful_stops(stops, items, self._message_start, start=start, shared=source.shared)
        run.messages = set(messages) or run.kept
        run.stops = [*stops, len(items)]
        sequence.in_step = False

    def begin_ahead(self, run: Run, sequence: LiveSequence) -> bool:
        """Let a run continue the prompt whose answer a sequence holds; False if it does not."""
        cache, items = self._forest.cache, run.items
        if sequence.in_step:
            return False
        found = find_source(sequence.items, items, cache)
        if found.length < max(1, sequence.n_prompt) or found.whole is not None:
            return False
        sequence.reuse(items, cache, None, [])
        run.sequence, run.stops = sequence, [len(items)]
        sequence.in_step = False
        return len(sequence.items) >= sequence.n_prompt

    def advance(self, run: Run, rows: int) -> int:
        """Evaluate up to `rows` rows of a prompt in one call; return how many.

        0: it waits for an image that is being encoded. After the last one `len(live.items) == len(run.items)`, and the
        last row of the call has logits.

        Raises:
            ModelError, RpcServerError, VisionError: llama.cpp fails.

        """
        live, prompt = run.live, run.job.prompt
        at = len(live.items)
        item = prompt[at]
        rows = min(rows, self._main.n_batch)
        if isinstance(item, MediaChunk):
            if not item.encoded():
                return 0
            done = self._image(run, item, rows)
        else:
            stop = next(stop for stop in run.stops if stop > at)
            done = self._tokens(run, prompt[at : min(stop, at + rows)])
        if not run.rows:
            self._at_stop(run)
        run.job.progress(live.cells + run.rows, run.total)
        return done

    def last_rows(self, run: Run) -> int:
        """Return the rows of the last call of a prompt, if all before is evaluated and it is a short one; else 0."""
        at, end = len(run.live.items), len(run.items)
        if run.rows or end - at > END or any(at < stop < end for stop in run.stops):
            return 0
        return 0 if any(isinstance(item, MediaChunk) for item in run.job.prompt[at:]) else end - at

    def finish(self, runs: Sequence[Run]) -> int:
        """Evaluate the last calls of prompts in one; each has equally many rows, the last of which has logits.

        Raises:
            ModelError, RpcServerError: llama.cpp fails.

        """
        tokens = [[token for token in run.job.prompt[len(run.live.items) :] if isinstance(token, int)] for run in runs]
        for run in runs:
            run.live.in_step = True
        self._main.evaluate_parts(
            [Part(part, run.live.pos, run.live.seq, 1) for part, run in zip(tokens, runs, strict=True)]
        )
        row = 0
        for part, run in zip(tokens, runs, strict=True):
            self._record(run, part, row)
            run.job.progress(run.live.cells, run.total)
            row += len(part)
        return row

    def _record(self, run: Run, tokens: Sequence[int], row: int = 0) -> None:
        """Record tokens of the last call, from a row on."""
        live = run.live
        if live.drafter is not None:
            live.drafter.sync(tokens, live.pos, self._main.hidden(row + len(tokens))[row:])
        at = len(live.items)
        live.append(run.items[at : at + len(tokens)], len(tokens), len(tokens))
        live.in_step = False

    def _tokens(self, run: Run, part: Sequence[int | MediaChunk]) -> int:
        live = run.live
        tokens: list[int] = []
        for item in part:
            if isinstance(item, MediaChunk):
                break
            tokens.append(item)
        last = len(live.items) + len(tokens) == len(run.items)
        live.in_step = True
        self._main.evaluate(tokens, live.pos, seq=live.seq, outputs=int(last))
        self._record(run, tokens)
        return len(tokens)

    def _image(self, run: Run, item: MediaChunk, rows: int) -> int:
        live = run.live
        stop = min(item.n_cells, run.rows + rows)
        done = stop - run.rows
        live.in_step = True  # a part of an image is not recorded
        item.evaluate(self._main, Place(live.seq, live.pos, run.rows, stop))
        run.rows = stop
        if stop == item.n_cells:
            run.rows = 0
            live.append([run.items[len(live.items)]], item.n_pos, item.n_cells)
            if live.drafter is not None:
                live.drafter.skip(self._main.hidden(done)[done - 1], live.pos)
            live.in_step = False
        return done

    def _at_stop(self, run: Run) -> None:
        """Keep and save the states here, if this is a place for it."""
        live = run.live
        at = len(live.items)
        if at in run.kept:
            self._forest.keep(live)
        if at in run.messages and at in run.stops:
            live.save(self._forest.store)
