"""Measurements in processes of their own: figures, and what happens when a process or an RPC server ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from oracles.rpc import free_port, rpc_server
from qwen35_gguf.cli import main
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.settings import Settings, from_record
from qwen35_gguf.runtime.tuning.trial import Trials


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


@pytest.mark.parametrize("dead", [False, True])
def test_a_process_that_is_killed_is_a_result(files: list[Path], dead: bool) -> None:
    """As the kernel does when memory runs out; its end may come before it is asked or after."""
    settings = Settings(1, 1, draft=False)
    with Trials(files[0], 1024) as trials:
        trials.measure(settings)
        os.kill(trials._live[settings].pid, signal.SIGKILL)
        if dead:
            trials._live[settings].wait()
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


# ---- with an RPC server ------------------------------------------------------------------------------------------

SOME, ALL, NONE = (Settings(1, 1, gpu_layers=count, draft=False) for count in (3, 6, 0))


def serving(endpoint: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return rpc_server(int(endpoint.rpartition(":")[2]))


@pytest.fixture(scope="module")
def endpoint() -> str:
    """One for all, since llama.cpp numbers devices by the addresses that a process has met."""
    return f"127.0.0.1:{free_port()}"


def trials_with(file: Path, endpoint: str) -> Trials:
    return Trials(file, 1024, (), (endpoint,), offload.find(endpoints=(endpoint,)), available_bytes())


def test_trials_take_turns_at_an_rpc_server(files: list[Path], endpoint: str) -> None:
    """It serves one client at a time; what is on the CPU alone needs no turn."""
    with serving(endpoint), trials_with(files[0], endpoint) as trials:
        for settings in (SOME, ALL, NONE, SOME, ALL):
            assert trials.measure(settings).problem == "", settings
            assert sum(settings.gpu_layers != 0 for settings in trials._live) <= 1
        assert list(trials._live) == [NONE, ALL]


def test_a_plan_for_the_cpu_alone_needs_no_turn(files: list[Path], endpoint: str) -> None:
    """The memory of the RPC server is that of the CPU, and the CPU is faster."""
    planned = replace(ALL, gpu_layers="auto")
    with serving(endpoint), trials_with(files[0], endpoint) as trials:
        assert not trials.place(planned).devices
        assert trials.effect(planned) == trials.effect(NONE) != trials.effect(ALL)
        assert (trials.rank(planned), trials.rank(SOME), trials.rank(ALL)) == (0, 3, 6)
        for settings in (ALL, planned):
            assert trials.measure(settings).problem == ""
        assert list(trials._live) == [ALL, planned]


def test_after_a_killed_process_the_rpc_server_serves_the_next(files: list[Path], endpoint: str) -> None:
    with serving(endpoint), trials_with(files[0], endpoint) as trials:
        assert trials.measure(ALL).problem == ""
        os.kill(trials._live[ALL].pid, signal.SIGKILL)
        assert trials.measure(ALL).problem == "ended by signal 9 (out of memory?)"
        assert trials.measure(SOME).problem == ""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_busy_rpc_server_is_waited_for(files: list[Path], endpoint: str) -> None:
    """Longer than a command waits: it may be busy with what a process asked for that was killed meanwhile."""
    with serving(endpoint) as process, trials_with(files[0], endpoint) as trials:
        assert trials.measure(ALL).problem == ""
        os.kill(process.pid, signal.SIGSTOP)
        trials.patience = 0.5
        assert trials.measure(ALL).problem == "took longer than 0 s"
        trials.patience = 60
        timer = threading.Timer(6, os.kill, (process.pid, signal.SIGCONT))
        timer.start()
        assert trials.measure(SOME).problem == ""
        timer.join()


def test_an_rpc_server_that_dies_is_a_result(files: list[Path], endpoint: str) -> None:
    with serving(endpoint) as process, trials_with(files[0], endpoint) as trials:
        assert trials.measure(ALL).problem == ""
        process.kill()
        process.wait()
        assert f"RPC server {endpoint}: is gone" in trials.measure(ALL).problem
        assert f"RPC server {endpoint}: cannot be reached" in trials.measure(ALL).problem
        assert trials.measure(NONE).problem == ""
        with serving(endpoint):
            assert trials.measure(ALL).problem == ""


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_tune_with_an_rpc_server_keeps_a_profile_for_it(
    files: list[Path], endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN35_CACHE", str(tmp_path))
    with serving(endpoint):
        code, out, err = run("tune", files[0], "--rpc", endpoint, "--budget", "5s", "--goal", "decode", "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["races"][0]["changed"] == "gpu_layers"
        assert found["races"][0]["problem"] == ""
        assert found["default"]["problem"] == ""
        assert found["default"]["decode"] > 0
        assert found["placement"]["default"] == "all layers on the CPU"  # as planned
        arguments = ["run", files[0], "one", "--raw", "-n", 2, "--temp", 0, "--ctx", 256]
        code, _, err = run(*arguments, "--rpc", endpoint)
        assert code == 0
        assert [line.startswith("tuned for decode on 20") for line in err.splitlines()].count(True) == 1
        assert "tuned for" not in run(*arguments)[2]
        with Qwen35(files[0], n_ctx=256, rpc=(endpoint,)) as model:
            assert model.tuned is not None
            assert model.tuned.settings == from_record(found["settings"])


def test_tune_when_the_rpc_server_is_gone(files: list[Path], endpoint: str) -> None:
    code, _, err = run("tune", files[0], "--rpc", endpoint, "--budget", "5s")
    assert code == 2
    assert err == f"Error: RPC server {endpoint}: cannot be reached (Connection refused)\n"
