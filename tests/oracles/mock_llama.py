"""A deterministic stand-in for llama.cpp, so that the engine's logic runs without it and without weights.

The next token of the mock model depends on the last three items of the sequence only: an n-gram model whose rows of
logits come from a seeded generator. Like a Qwen3.5, it has two kinds of memory, and the mock is strict about them: the
KV cache can be truncated anywhere, the recurrent state only be rolled back over the last call (`n_rs_seq` tokens) or
restored from a copy. What llama.cpp computes silently from a wrong state is an `AssertionError` here.

Hidden states hold the last three items as numbers, which is all that the mock MTP head needs to predict. It is right
for a fixed part of all contexts (`accuracy`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qwen35_gguf.errors import ContextError
from qwen35_gguf.runtime.llama.batch import Part

Array = npt.NDArray[Any]

ORDER = 3  # items that the next token depends on
ENDING = 1  # the token that ends a text
MEDIA = 1 << 20  # what an image counts as in a context, plus a number made from its content


@dataclass
class MockModel:
    """A model: sizes, a seed for its n-gram table, and how often its MTP head is right."""

    n_vocab: int = 50
    seed: int = 0
    accuracy: float = 0.7
    ending: bool = False  # whether ENDING has a chance
    n_embd: int = ORDER
    has_head: bool = True

    def logits(self, context: Sequence[int]) -> Array:
        """(n_vocab,) float32: the row after a sequence."""
        row = np.random.default_rng([self.seed, *_last(context)]).normal(size=self.n_vocab).astype(np.float32)
        if not self.ending:
            row[ENDING] = -100.0
        return row

    def head_logits(self, context: Sequence[int]) -> Array:
        """(n_vocab,) float32: what the MTP head predicts after a sequence; the second best where it is wrong."""
        row = self.logits(context)
        if np.random.default_rng([self.seed + 1, *_last(context)]).random() >= self.accuracy:
            row[row.argmax()] = -100.0
        return row

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """Continue a prompt by the best tokens, without any engine: the expected output."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(tokens).argmax()))
        return tokens[len(prompt) :]

    def ends(self, token: int) -> bool:
        """Tell whether a token ends the generation."""
        return token == ENDING

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token."""
        return b"" if token == ENDING else f" {token}".encode()


def _last(context: Sequence[int]) -> list[int]:
    return [0] * (ORDER - len(context[-ORDER:])) + [int(item) + 1 for item in context[-ORDER:]]


def media_item(key: str) -> int:
    """What an image is to the model: a number that depends on its content."""
    return MEDIA + int.from_bytes(hashlib.sha256(key.encode()).digest()[:2], "little")


@dataclass
class _Sequence:
    """The memory of one sequence: an entry for each position that was evaluated."""

    cells: list[tuple[int, int]] = field(default_factory=list)  # (position, item) in the KV cache
    state: list[tuple[int, int]] = field(default_factory=list)  # what the recurrent state has seen
    last_call: int = 0  # entries that the last call added


class MockContext:
    """What `qwen35_gguf.runtime.llama.context.Context` is to the engine.

    Attributes:
        calls: positions and tokens of each part of each call, for tests that look at what was computed.

    """

    def __init__(
        self, model: MockModel, spec: Any, *, hidden: bool = False, mtp_of: MockContext | None = None, **_: Any
    ) -> None:
        self.model, self.spec, self.mtp_of, self._gives_hidden = model, spec, mtp_of, hidden
        self.n_ctx, self.n_batch = spec.n_ctx, spec.n_batch
        self.pointer: Any = object()
        self.calls: list[tuple[int, list[int]]] = []
        self.closed = False
        self._sequences = {seq: _Sequence() for seq in range(spec.n_seq)}
        self._logits: dict[int, Array] = {}
        self._hidden: list[Array] = []
        self._rows = 0

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def __enter__(self) -> MockContext:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def evaluate(
        self, tokens: Sequence[int], pos: int, *, seq: int = 0, outputs: int = 0, embd: Array | None = None
    ) -> None:
        """Append tokens to a sequence; check that they continue it."""
        self.evaluate_parts([Part(tokens, pos, seq, outputs, embd)])

    def evaluate_parts(self, parts: Sequence[Part]) -> None:
        """Append tokens to several sequences; check that they continue each."""
        assert not self.closed
        assert 0 < sum(len(part.tokens) for part in parts) <= self.n_batch
        assert sum(part.outputs for part in parts) <= max(self.spec.n_outputs, self.spec.n_seq)
        assert len({part.seq for part in parts}) == len(parts)
        self._begin_call(sum(len(part.tokens) for part in parts))
        for part in parts:
            assert part.tokens
            self.calls.append((part.pos, list(part.tokens)))
            if self.mtp_of is not None:
                self._evaluate_head(part)
            else:
                self._evaluate_main(part)

    def _evaluate_main(self, part: Part) -> None:
        assert part.embd is None
        n = len(part.tokens)
        self._append(part.seq, [(part.pos + i, token) for i, token in enumerate(part.tokens)])
        history = [item for _, item in self._sequences[part.seq].state]
        for row in range(n):
            before = history[: len(history) - n + row + 1]
            self._hidden.append(np.array(_last(before), np.float32))
            if row >= n - part.outputs:
                self._logits[len(self._hidden) - 1] = self.model.logits(before)

    def evaluate_image(self, key: str, place: Any, n_pos: int) -> None:
        """Take rows of an image that moves the position by `n_pos`."""
        rows = range(place.start, place.stop)
        assert 0 < len(rows) <= self.n_batch
        self._append(place.seq, [(place.pos + min(i, n_pos - 1), media_item(key)) for i in rows], image=True)
        self._begin_call(len(rows))
        self._hidden = [np.array(_last([media_item(key)] * ORDER), np.float32)] * self._rows

    def _evaluate_head(self, part: Part) -> None:
        """The row at a position takes the token there and the hidden state of the position before it."""
        assert part.embd is not None
        assert part.embd.shape == (len(part.tokens), self.model.n_embd)
        cells = self._sequences[part.seq].cells
        assert not cells or cells[-1][0] < part.pos
        cells += [(part.pos + i, token) for i, token in enumerate(part.tokens)]
        assert len(cells) <= self.n_ctx
        for row, (token, before) in enumerate(zip(part.tokens, part.embd, strict=True)):
            context = [int(number) - 1 for number in before if number > 0] + [token]
            self._hidden.append(np.array(_last(context), np.float32))
            if row >= len(part.tokens) - part.outputs:
                self._logits[len(self._hidden) - 1] = self.model.head_logits(context)

    def _append(self, seq: int, entries: list[tuple[int, int]], *, image: bool = False) -> None:
        memory = self._sequences[seq]
        assert memory.state == memory.cells, "the recurrent state and the KV cache are of different prefixes"
        if memory.cells:
            last = memory.cells[-1][0]
            assert entries[0][0] > last or (image and entries[0][0] == last), "a position is evaluated twice"
        used = {id(cell) for other in self._sequences.values() for cell in other.cells}  # shared ones count once
        if len(used) + len(entries) > self.n_ctx:
            raise ContextError(f"the context of {self.n_ctx} tokens is full; raise n_ctx")
        memory.cells += entries
        memory.state += entries
        memory.last_call = len(entries)

    def _begin_call(self, rows: int) -> None:
        self._rows, self._logits, self._hidden = rows, {}, []

    def logits(self, row: int) -> Array:
        """Return a row of the last call, for which logits were asked for."""
        return self._logits[row if row >= 0 else self._rows + row]

    def last_logits(self, rows: int) -> Array:
        """Return the last rows of the last call."""
        return np.stack([self.logits(row - rows) for row in range(rows)])

    def hidden(self, rows: int) -> Array:
        """Return the first hidden states of the last call."""
        assert self._gives_hidden
        return np.stack(self._hidden[:rows])

    def head_hidden(self, row: int = -1) -> Array:
        """Return the MTP head's own hidden state of a row."""
        return self._hidden[row]

    can_read_fewer_rows, draft_rows = False, 0

    def read_rows(self, rows: int) -> None:
        """Read all rows of the output matrix."""
        assert rows == 0

    def wait(self) -> None:
        """Do nothing."""

    def share(self, source: int, target: int, pos: int) -> None:
        """Let a sequence have the cells of another one before a position, and its recurrent state."""
        memory = self._sequences[target]
        assert not memory.cells
        assert not memory.state
        memory.cells = [entry for entry in self._sequences[source].cells if entry[0] < pos]
        memory.state = list(self._sequences[source].state)

    def clear(self) -> None:
        """Empty all sequences."""
        self._sequences = {seq: _Sequence() for seq in self._sequences}

    def remove(self, pos: int, *, seq: int = 0) -> bool:
        """Truncate a sequence; False if the recurrent state cannot be rolled back that far."""
        memory = self._sequences[seq]
        kept = [entry for entry in memory.state if entry[0] < pos]
        if self.mtp_of is None and pos > 0:
            undone = len(memory.state) - len(kept)
            if undone > min(self.spec.n_rs_seq, memory.last_call):
                return False
            memory.last_call -= undone
        memory.state = kept
        memory.cells = [entry for entry in memory.cells if entry[0] < pos]
        return True

    def state(self, *, partial: bool, seq: int = 0) -> Array:
        """Copy the recurrent state of a sequence, or all of its memory."""
        memory = self._sequences[seq]
        entries = np.array(memory.state, np.int32).reshape(-1, 2)
        return np.concatenate([np.array([[int(partial), 0]], np.int32), entries]).view(np.uint8).ravel()

    def state_size(self, *, partial: bool, seq: int = 0) -> int:
        """Return the bytes of `state`."""
        return self.state(partial=partial, seq=seq).nbytes

    def restore(self, data: Array, *, partial: bool, seq: int = 0) -> bool:
        """Restore a copy; False if it is of the other kind, not of a state, or if no cells are left for it."""
        if not data.nbytes or data.nbytes % 8:
            return False
        head, *entries = data.view(np.int32).reshape(-1, 2).tolist()
        if head != [int(partial), 0]:
            return False
        memory = self._sequences[seq]
        others = {id(cell) for one in self._sequences.values() if one is not memory for cell in one.cells}
        if not partial and len(others) + len(entries) > self.n_ctx:
            return False
        memory.state = [(pos, item) for pos, item in entries]
        memory.last_call = 0
        if not partial:
            memory.cells = list(memory.state)
        return True


class MockChain:
    """What the chain of samplers is to the engine: the best token, or a seeded choice at a temperature."""

    def __init__(self, n_vocab: int, *, temperature: float, seed: int, **_: Any) -> None:
        self.n_vocab, self.temperature, self.accepted = n_vocab, temperature, list[int]()
        self.drafts = temperature > 0
        self._seed = seed

    def close(self) -> None:
        """Do nothing."""

    def choose(self, logits: Array, ids: Array | None = None, *, ahead: int = 0) -> int:
        """Choose a token among all, or among some; what follows `ahead` others is chosen as it will be then."""
        if ids is not None:
            return int(ids[self.choose(logits[ids], ahead=ahead)])
        if self.temperature <= 0:
            return int(logits.argmax())
        noise = np.random.default_rng([self._seed, len(self.accepted) + ahead]).gumbel(size=len(logits))
        return int((logits / self.temperature + noise).argmax())

    def accept(self, token: int) -> None:
        """Count a token."""
        self.accepted.append(token)


def use_mock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine make mock contexts and mock samplers."""
    from qwen35_gguf.runtime.engine import sampling, scheduler
    from qwen35_gguf.runtime.engine.drafts import mtp

    for module in (mtp, scheduler):
        monkeypatch.setattr(module, "Context", MockContext)
    monkeypatch.setattr(sampling, "Chain", MockChain)
