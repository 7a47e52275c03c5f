"""How many steps of a spinning wait take a given time."""

from __future__ import annotations

import pytest

from qwen35_gguf.ggml_ops import _native, spin_wait


def test_a_step_takes_between_one_and_five_hundred_cycles() -> None:
    assert 0.1 < _native.pause_nanoseconds() < 1000


@pytest.mark.parametrize(("nanoseconds", "steps"), [(25.0, 1600), (3.0, 13333), (0.0, 400_000)])
def test_steps_follow_from_the_time_of_one(monkeypatch: pytest.MonkeyPatch, nanoseconds: float, steps: int) -> None:
    monkeypatch.setattr(_native, "pause_nanoseconds", lambda: nanoseconds)
    assert spin_wait.spin_steps(40e-6) == steps


def test_there_is_at_least_one_step() -> None:
    assert spin_wait.spin_steps(0) == 1
