"""States on disk after what goes wrong: a kill while one is written, a full disk, files that were left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qwen35_gguf.runtime.engine.forest.prefix_cache import SequenceState
from qwen35_gguf.runtime.engine.forest.state_store import LEFT_BEHIND, StateStore

pytestmark = pytest.mark.unit

WRITER = """
import sys
from pathlib import Path
import numpy as np
from qwen35_gguf.runtime.engine.forest.prefix_cache import SequenceState
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
store = StateStore(Path(sys.argv[1]), "m", 40_000_000)
print("ready", flush=True)
for number in range(1000):
    items = [number, *range(50)]
    store.save(SequenceState(items, 51, 51, np.full(4_000_000, number % 251, np.uint8)))
"""

FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from qwen35_gguf.errors import OutputError
from qwen35_gguf.runtime.engine.forest.prefix_cache import SequenceState
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = StateStore(Path(sys.argv[1]), "m")
store.save(SequenceState([1, 2], 2, 2, np.zeros(1000, np.uint8)))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.save(SequenceState([1, 2, 3], 3, 3, np.zeros(1_000_000, np.uint8)))
except OutputError as error:
    print(len(str(error).splitlines()))
"""


def test_a_kill_at_any_moment_leaves_whole_states_only(tmp_path: Path) -> None:
    for wait in np.random.default_rng(0).uniform(0.0, 0.15, 6).tolist():
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
        store = StateStore(tmp_path, "m", 40_000_000)
        for state in store.states:
            whole = store.read(state)
            assert whole is not None
            assert whole.state.nbytes == 4_000_000
            assert (whole.state == state.items[0] % 251).all()  # type: ignore[operator]
        assert sum(path.stat().st_size for path in tmp_path.glob("*.state")) < 45_000_000


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_one_line_and_what_was_there_stays(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    store = StateStore(tmp_path, "m")
    (state,) = store.states
    assert store.read(state) is not None
    assert [path.suffix for path in tmp_path.iterdir()] == [".state"]


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "m")
    path = store.save(SequenceState([1], 1, 1, np.zeros(10, np.uint8)))
    old, new, foreign = (
        path.with_name(f"{'0' * 32}.state.part"),
        path.with_name(path.name + ".part"),
        tmp_path / "x.part",
    )
    for each in (old, new, foreign):
        each.write_bytes(b"half")
    for each in (old, foreign):
        os.utime(each, (0, time.time() - 2 * LEFT_BEHIND))
    StateStore(tmp_path, "m")
    assert (old.exists(), new.exists(), foreign.exists()) == (False, True, True)


def test_states_are_written_beside_the_engine_and_a_failure_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = StateStore(tmp_path / "states", "m")
    store.save_later(SequenceState([1, 2], 2, 2, np.zeros(1000, np.uint8)))
    store.flush()
    time.sleep(0.01)
    store.save_later(SequenceState([3], 1, 1, np.zeros(1000, np.uint8)))
    store.flush()
    assert [state.items for state in store.newest(5)] == [[3], [1, 2]]
    assert [state.items for state in store.newest(1)] == [[3]]
    for path in store.folder.iterdir():
        path.unlink()
    store.folder.rmdir()
    store.folder.write_text("not a folder any more")
    store.save_later(SequenceState([1, 2, 3], 3, 3, np.zeros(1000, np.uint8)))
    store.close()
    assert not store.works
    (record,) = caplog.records
    assert record.getMessage().endswith("states are no longer saved")
