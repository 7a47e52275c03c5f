"""What llama.cpp holds goes with the objects, in any order, in any process, and no process ends with a signal.

Each case is a script in a process of its own, which prints `ok`.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from inputs.chat_requests import HELLO
from qwen35_gguf.errors import CopyError
from qwen35_gguf.runtime import Qwen35

START = """
import gc, multiprocessing, os, sys, threading, time
from qwen35_gguf.errors import *
from qwen35_gguf.runtime import Qwen35
MODEL, HELLO = sys.argv[1], [{"role": "user", "content": "Hello there"}]
def load(**options): return Qwen35(MODEL, **{"n_ctx": 2048, "n_threads": 2, **options})
def resident(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""

DROPPED = """
def use(kind):
    model = load()
    if kind == "stream":
        stream = model.chat(HELLO, stream=True); next(stream); return
    if kind == "cycle":
        model.itself = model
    if kind == "error":
        try: model.chat(HELLO, max_tokens=-1)
        except Qwen35Error: return
    if kind == "thread":
        thread = threading.Thread(target=model.chat, args=(HELLO,), kwargs={"max_tokens": 3})
        del model; thread.start(); thread.join(); return
    if kind == "image":
        import numpy as np
        part = {"type": "image", "image": np.zeros((64, 64, 3), np.uint8)}
        model.chat([{"role": "user", "content": [part]}], max_tokens=2); return
    model.chat(HELLO, max_tokens=3)
kinds = ("chat", "stream", "cycle", "error", "thread", "image")
for kind in kinds * 2: use(kind); gc.collect()
before = resident()
for kind in kinds * 3: use(kind); gc.collect()
grown = (resident() - before) / 1e6  # three models that are not freed take more than 100
print("ok" if grown < 60 else f"{grown:.0f} MB more")
"""

HALF_BUILT = """
from qwen35_gguf.runtime.engine import scheduler
real = scheduler.Context
def fails(*args, **options):
    context = real(*args, **options)
    raise ModelError("no memory")
def once():
    try: load(draft=0)
    except ModelError: pass
scheduler.Context = fails
for _ in range(3): once(); gc.collect()
before = resident()
for _ in range(8): once(); gc.collect()
grown = (resident() - before) / 1e6
print("ok" if grown < 30 else f"{grown:.0f} MB more")
"""

FORK = """
model = load(); model.chat(HELLO, max_tokens=3)
stream = model.chat(HELLO, stream=True, max_tokens=30, thinking=False, temperature=0); pieces = [next(stream)]
def refused(call):
    try: call()
    except ForkError as error: return "forked" in str(error) and len(str(error).splitlines()) == 1
calls = [lambda: model.chat(HELLO), lambda: model.chat(HELLO, stream=True), lambda: next(stream),
         lambda: model.generate("a"), lambda: model.generate_many(["a"]), lambda: model.count_tokens("a"),
         lambda: model.cache_info(), lambda: load()]
pid = os.fork()
if not pid:
    right = all([refused(call) for call in calls])
    stream.close(); model.close(); model.close()
    del stream, model, calls; gc.collect()
    sys.exit(0 if right else 1)
_, status = os.waitpid(pid, 0)
pieces += stream
found = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
whole = model.chat(HELLO, max_tokens=30, thinking=False, temperature=0).text
print("ok" if not status and found == whole else f"status {status}, {found!r}, {whole!r}")
"""

FORK_WHILE_RUNNING = """
model = load()
thread = threading.Thread(target=model.chat, args=(HELLO,), kwargs={"max_tokens": 200, "thinking": False})
thread.start()
right = True
for _ in range(5):
    pid = os.fork()
    if not pid:
        try: model.chat(HELLO)
        except ForkError: model.close(); os._exit(0)
        os._exit(1)
    right &= os.waitpid(pid, 0)[1] == 0
thread.join()
print("ok" if right else "a child continued")
"""

MULTIPROCESSING = """
def child(queue):
    try: model.chat(HELLO)
    except Qwen35Error as error: queue.put(type(error).__name__)
if __name__ == "__main__":
    model = load(); model.chat(HELLO, max_tokens=2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,)); process.start()
    found = queue.get(timeout=60); process.join()
    print("ok" if (found, process.exitcode) == ("ForkError", 0) else (found, process.exitcode))
"""

LOADED_IN_CHILDREN = """
import numpy
for _ in range(2):
    pid = os.fork()
    if not pid:
        os._exit(0 if load().chat(HELLO, max_tokens=3).timings.tokens == 3 else 1)
    assert os.waitpid(pid, 0)[1] == 0
print("ok")
"""

EXIT_WHILE_RUNNING = """
model = load()
stream = load(draft=0).chat(HELLO, stream=True, max_tokens=2000, thinking=False); next(stream)
def work():
    for _ in range(1000): model.chat(HELLO, max_tokens=50, thinking=False)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print("ok", flush=True)
"""

EXIT_WITH_EVERYTHING_OPEN = """
model = load(); model.chat(HELLO, max_tokens=2)
stream = model.chat(HELLO, stream=True, response_format={"type": "json_object"}); next(stream)
model.keeps = stream
kept = [load(draft=0), model, stream]
print("ok", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc").is_dir(), reason="needs fork and /proc")
@pytest.mark.parametrize(
    "script",
    [
        DROPPED,
        HALF_BUILT,
        FORK,
        FORK_WHILE_RUNNING,
        MULTIPROCESSING,
        LOADED_IN_CHILDREN,
        EXIT_WHILE_RUNNING,
        EXIT_WITH_EVERYTHING_OPEN,
    ],
    ids=[
        "dropped",
        "half built",
        "fork",
        "fork while running",
        "multiprocessing",
        "loaded in children",
        "exit while running",
        "exit with everything open",
    ],
)
def test_a_process_ends_well(files: list[Path], tmp_path: Path, script: str) -> None:
    path = tmp_path / "script.py"
    path.write_text(START + script)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(path), str(files[0])]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.stdout.strip(), done.returncode) == ("ok", 0), done.stderr[-2000:]
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_model_cannot_be_copied(shared: Qwen35, make: object) -> None:
    for part in (shared, shared._loaded.model, shared._loaded.engine, shared._loaded.engine.main):
        with pytest.raises(CopyError, match=f"{type(part).__name__}: cannot be copied or pickled"):
            make(part)  # type: ignore[operator]
    with shared.chat(HELLO, thinking=False, max_tokens=2, stream=True) as stream:
        with pytest.raises(CopyError, match="Stream: cannot be copied or pickled"):
            make(stream)  # type: ignore[operator]
        assert len(list(stream)) > 1
    assert shared.chat(HELLO, thinking=False, max_tokens=1).timings.tokens == 1
