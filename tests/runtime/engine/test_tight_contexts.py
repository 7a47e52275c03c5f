"""Requests that fill a context to the last cell, beside others that do, pause, vanish and come back, on the mock model.

What each says is what it says alone, up to the end of its context; no cell is missing in the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inputs.scheduling import asked as scheduled
from inputs.scheduling.asked import finish
from oracles import mock_llama
from oracles.mock_llama import MockModel
from qwen35_gguf.runtime.calls.call import Cancelled
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.forest.prefix_cache import SequenceState
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
from qwen35_gguf.runtime.engine.job import Outcome
from qwen35_gguf.runtime.engine.scheduler import Scheduler

pytestmark = pytest.mark.unit

START, N_CTX = 2, 48  # begins a message; cells of a sequence
ADDED = [7, 8, 9]


@pytest.fixture(autouse=True)
def _mock(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_llama.use_mock(monkeypatch)


def scheduler(model: MockModel, *, parallel: int = 2, n_batch: int = 8, **options: Any) -> Scheduler:
    spec = ContextSpec(n_ctx=N_CTX, n_batch=n_batch)
    options = {"cache_bytes": 1 << 20, **options}
    return Scheduler(model, spec, parallel=parallel, message_start=START, **options)  # type: ignore[arg-type]


@dataclass
class Asked(scheduled.Asked):
    """A request: after how many tokens others are added, how often it pauses, when it is ended."""

    adds: int = -1
    pauses: bool = False
    ends_at: int = -1  # step
    depth: Any = None

    def take(self, token: int) -> Sequence[int] | None:
        self.tokens.append(token)
        self.wanted = not self.pauses or len(self.tokens) % 3 > 0
        return ADDED if len(self.tokens) == self.adds else ()

    def expected(self, model: MockModel) -> list[int]:
        """What it says alone, of its tokens without those that are added."""
        items, said = list(self.prompt), list[int]()
        while len(said) < self.limit and len(items) <= N_CTX:
            said.append(int(model.logits(items).argmax()))
            items.append(said[-1])
            items += ADDED if len(said) == self.adds else []
        return said


def disturbed(one: Scheduler, asked: Sequence[Asked]) -> Callable[[int], None]:
    """End requests, and wake those that paused."""

    def before(number: int) -> None:
        for each in asked:
            if each.run is not None and number == each.ends_at:
                one.end(each.run, Cancelled())
            each.wanted = each.wanted or number % 2 == 1

    return before


def two_messages(shared: int, own: int, seed: int) -> list[int]:
    return [START, *range(3, 3 + shared), START, *((seed * 11 + 5 * i) % 40 + 3 for i in range(own))]


prompts = st.builds(
    two_messages,
    st.integers(0, 12),
    st.integers(1, N_CTX - 14),
    st.integers(0, 3),
)
requests = st.builds(
    Asked,
    prompts,
    st.integers(0, N_CTX + 5),
    adds=st.integers(-1, 12),
    pauses=st.booleans(),
    ends_at=st.one_of(st.just(-1), st.integers(0, 40)),
    depth=st.sampled_from([None, 0, 1]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(requests, min_size=1, max_size=5), min_size=1, max_size=3),
    st.integers(1, 3),
    st.sampled_from([0, 1, 2, 4, "auto"]),
    st.sampled_from([0, 600, 3000, 1 << 20]),
    st.booleans(),
    st.booleans(),
)
def test_any_requests_in_a_small_context(
    rounds: list[list[Asked]], parallel: int, draft: Any, cache_bytes: int, on_disk: bool, deterministic: bool
) -> None:
    model = MockModel(accuracy=0.6)
    with tempfile.TemporaryDirectory() as folder:
        store = StateStore(Path(folder), "m", 3000) if on_disk else None
        options = {"draft": draft, "cache_bytes": cache_bytes, "store": store, "deterministic": deterministic}
        with scheduler(model, parallel=parallel, **options) as one:
            for asked in rounds:
                for each in asked:
                    if each.depth is not None and draft == 0:
                        each.depth = None
                    each.add(one, depth=each.depth)
                finish(one, disturbed(one, asked))
                for each in asked:
                    (result,) = each.results
                    said = each.expected(model)
                    if isinstance(result, Cancelled):
                        assert each.tokens == said[: len(each.tokens)]
                        continue
                    assert isinstance(result, Outcome), result
                    assert each.tokens == said
                    assert result.end == ("limit" if len(said) == each.limit else "full")
            one.save()


@pytest.mark.parametrize("draft", [0, 3, "auto"])
def test_a_prompt_that_fills_the_context_gets_one_token(draft: Any) -> None:
    model = MockModel()
    with scheduler(model, draft=draft) as one:
        asked = Asked([START, *range(3, 2 + N_CTX)], 10)
        asked.add(one)
        finish(one)
        assert asked.tokens == asked.expected(model)
        assert len(asked.tokens) == 1


def test_states_of_a_larger_context_take_no_cells_of_others(tmp_path: Path) -> None:
    items = [START, *range(3, 3 + 3 * N_CTX // 2)]
    cells = np.array([[0, 0], *enumerate(items)], np.int32).view(np.uint8).ravel()
    StateStore(tmp_path, "m").save(SequenceState(items, len(items), len(items), cells))  # type: ignore[arg-type]
    model = MockModel()
    with scheduler(model, parallel=2, store=StateStore(tmp_path, "m")) as one:
        one.warm_up()
        assert not any(each.items for each in one.forest.sequences)
        asked = Asked([START, 5, 6], N_CTX)
        asked.add(one)
        finish(one)
        assert asked.tokens == asked.expected(model)
