"""Which rows of the output matrix drafts read: the fastest by an exact count, for the text that is written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.engine.drafts.acceptance import Rates
from qwen35_gguf.runtime.engine.drafts.draft_depth import best_depth, speed_up
from qwen35_gguf.runtime.engine.drafts.draft_rows import BETTER, Coverage, choose_rows
from qwen35_gguf.runtime.engine.drafts.drafted_text import DraftedText
from qwen35_gguf.runtime.engine.drafts.row_costs import ALL, RowCosts, RowsRead, row_counts
from qwen35_gguf.runtime.engine.drafts.step_costs import StepCosts

pytestmark = pytest.mark.unit

N_VOCAB = 248_320
VERIFY, DRAFT = [22.0, 24.0, 28.0, 33.0, 38.0], 10.0  # ms, of a 0.8B whose output matrix is most of a draft


def covered(tokens: list[int]) -> Coverage:
    found = Coverage(row_counts(N_VOCAB))
    found.add(tokens)
    return found


def test_coverage_is_the_share_of_the_first_tokens() -> None:
    tokens = np.random.default_rng(0).integers(0, 100_000, 60).tolist()
    found = covered(tokens)
    for rows in row_counts(N_VOCAB):
        assert found.of(rows) == pytest.approx(np.mean(np.asarray(tokens) < rows))
    assert found.of(ALL) == 1


def test_coverage_follows_another_language() -> None:
    found = covered([5] * 1000)
    found.add([200_000] * 200)
    assert found.of(N_VOCAB // 4) < 0.1


def test_no_text_is_covered() -> None:
    assert covered([]).of(N_VOCAB // 16) == 1


def test_costs_are_on_the_line_through_both_measurements() -> None:
    costs = RowCosts(N_VOCAB, 0.25)
    assert costs.of(ALL) == 1
    assert costs.of(N_VOCAB // 16) == pytest.approx(0.25)
    assert costs.of(N_VOCAB // 8) == pytest.approx(0.25 + 0.75 / 15, rel=1e-3)


@given(
    rates=st.lists(st.floats(0.05, 1), min_size=4, max_size=4),
    share=st.floats(0.05, 1),
    tokens=st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=80),
    verify=st.lists(st.floats(1, 100), min_size=5, max_size=5).map(sorted),
    draft=st.floats(0.1, 50),
    current=st.sampled_from([ALL, *row_counts(N_VOCAB)]),
)
def test_no_other_rows_are_clearly_faster(
    rates: list[float], share: float, tokens: list[int], verify: list[float], draft: float, current: int
) -> None:
    row_costs, coverage = RowCosts(N_VOCAB, share), covered(tokens)
    chosen = choose_rows(current, StepCosts(verify, draft), row_costs, [(rates, coverage)])

    def speed(rows: int) -> float:
        acceptance = [rate * coverage.of(rows) for rate in rates]
        depths = range(1, len(verify))
        return max(speed_up(verify, draft * row_costs.of(rows), acceptance, depth) for depth in depths)

    best = max(speed(rows) for rows in (ALL, *row_counts(N_VOCAB)))
    assert speed(chosen) * BETTER >= best * (1 - 1e-9)
    assert chosen == current or speed(chosen) > speed(current)


def test_english_takes_few_rows_and_drafts_pay_that_do_not_with_all() -> None:
    rng = np.random.default_rng(1)
    text = covered(np.where(rng.random(200) < 0.92, rng.integers(0, 15_000, 200), 100_000).tolist())
    rates = [0.75] * 4
    assert best_depth(VERIFY, DRAFT, rates) <= 1
    rows = choose_rows(ALL, StepCosts(VERIFY, DRAFT), RowCosts(N_VOCAB, 0.15), [(rates, text)])
    assert rows in row_counts(N_VOCAB)
    acceptance = [rate * text.of(rows) for rate in rates]
    fewer = DRAFT * RowCosts(N_VOCAB, 0.15).of(rows)
    assert speed_up(VERIFY, fewer, acceptance, best_depth(VERIFY, fewer, acceptance)) > 1.25


def test_rare_tokens_take_all_rows() -> None:
    text = covered([200_000, 150_000, 200_000, 3] * 50)
    assert choose_rows(N_VOCAB // 16, StepCosts(VERIFY, DRAFT), RowCosts(N_VOCAB, 0.15), [([0.8] * 4, text)]) == ALL


def test_all_rows_where_fewer_are_not_cheaper() -> None:
    text = covered([3, 3, 3, 100_000] * 50)
    assert choose_rows(ALL, StepCosts(VERIFY, DRAFT), RowCosts(N_VOCAB, 1.0), [([0.8] * 4, text)]) == ALL


def test_a_token_that_no_draft_can_be_says_nothing_of_the_head() -> None:
    rates = Rates.begin(4)
    before = rates.of_head()
    rates.add_head([5, 6], [100_000, 6], rows=N_VOCAB // 16)
    assert rates.of_head() == before
    rates.add_head([5, 6], [100_000, 6])
    assert rates.of_head()[0] < before[0]


def test_chances_count_what_is_not_covered() -> None:
    rows = RowsRead(ALL, RowCosts(N_VOCAB, 0.2))
    text = DraftedText([3, 200_000] * 50, None, Rates.begin(4), rows)
    every = text.chances(4).head
    rows.count = N_VOCAB // 8
    assert text.chances(4).head == pytest.approx([rate / 2 for rate in every], rel=0.01)
    text.look_up([3, 200_000] * 50 + [4] * 64 * 5, [4], 4)
    assert text.chances(4).head == pytest.approx(every, rel=0.02)


def test_a_draft_of_fewer_rows_costs_its_share() -> None:
    costs = StepCosts(VERIFY, DRAFT, RowsRead(N_VOCAB // 16, RowCosts(N_VOCAB, 0.2)))
    assert costs.seconds(2, 2) == pytest.approx(VERIFY[2] + 2 * DRAFT * 0.2)
    costs.record(2, 2, VERIFY[2], 2 * DRAFT * 0.2)
    assert costs.draft_of_all_rows == pytest.approx(DRAFT)
