"""Measurements in processes of their own: figures, and what happens when a process ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from qwen35_gguf.runtime.settings import Settings
from qwen35_gguf.runtime.trial import Trials


def test_a_trial_gives_figures(files: list[Path]) -> None:
    with Trials(files[0], 1024) as trials:
        first = trials.measure(Settings(1, 1, n_batch=256))
        again = trials.measure(Settings(1, 1, n_batch=256))
        assert len(trials._live) == 1
        other = trials.measure(Settings(1, 1, n_batch=256, kv_type="q4_0", draft=False))
    for found in (first, again, other):
        assert not found.problem
        assert min(found.prefill, found.decode, found.drafting) > 0
        assert found.memory > 10_000_000
    assert first.divergence == 0
    assert 0 < other.divergence < 1
    assert other.drafting == 1


def test_what_cannot_be_loaded_is_a_result(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(files[0].read_bytes()[:5000])
    with Trials(tmp_path / "cut.gguf", 1024) as trials:
        assert "cut.gguf" in trials.measure(Settings(1, 1)).problem


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of memory")
def test_too_little_memory_is_a_result(files: list[Path]) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (40 << 30, before[1]))  # which the trial inherits
    try:
        with Trials(files[0], 1 << 27) as trials:  # 64 GiB of KV cache
            assert "cannot be made" in trials.measure(Settings(1, 1)).problem
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_process_that_is_killed_is_a_result(files: list[Path]) -> None:
    """As the kernel does when memory runs out."""
    settings = Settings(1, 1, draft=False)
    with Trials(files[0], 1024) as trials:
        trials.measure(settings)
        os.kill(trials._live[settings].pid, signal.SIGKILL)
        assert trials.measure(settings).problem == "ended by signal 9 (out of memory?)"
        assert not trials.measure(settings).problem  # a new one


def test_a_process_that_hangs_is_a_result(files: list[Path]) -> None:
    settings = Settings(1, 1, draft=False)
    with Trials(files[0], 1024) as trials:
        trials.measure(settings)
        os.kill(trials._live[settings].pid, signal.SIGSTOP)
        trials.patience = 0.5
        assert trials.measure(settings).problem == "took longer than 0 s"


@pytest.mark.parametrize("kept", [1, 2])
def test_no_more_processes_than_memory_allows(files: list[Path], kept: int) -> None:
    with Trials(files[0], 1024, kept=kept) as trials:
        for threads in (1, 2):
            trials.measure(Settings(threads, 1, draft=False))
        processes = list(trials._live.values())
        assert len(processes) == kept
    assert all(process.poll() is not None for process in processes)
