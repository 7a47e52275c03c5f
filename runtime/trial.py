"""One trial of settings, in a process of its own: what it breaks, and what it takes of memory, ends with it.

`python -m qwen35_gguf.runtime.trial` reads a line of JSON that says what to load, then measures whenever another line
comes, and answers each with a line of JSON. `Trials` is the other side.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from qwen35_gguf.errors import Qwen35Error
from qwen35_gguf.runtime import offload
from qwen35_gguf.runtime.gguf_header import read_header
from qwen35_gguf.runtime.llama import Context, FloatArray, Model
from qwen35_gguf.runtime.mtp import MAX_DEPTH, Drafter, measure_costs, speed_up
from qwen35_gguf.runtime.settings import Settings, context_options, model_options
from qwen35_gguf.runtime.tune import Measurement

PROMPT, ANSWER = 512, 24  # tokens of a measurement; the prompt is at least one batch
BEHIND = 64  # tokens evaluated before the answer
COMPARED = 48  # rows of logits whose divergence counts
TEXT = (
    "The river rises in the hills, turns east below the old mill, and reaches the sea after ninety miles. In 1874 the "
    "engineers measured its depth at twelve places: `depth = [3.2, 4.1, 2.8]` metres, they wrote, and the mean was "
    "lower than anyone had thought. Why? Because the dry summer before had left little water behind the weir. "
)


# ---- in the process ----------------------------------------------------------------------------------------------


def serve() -> None:
    """Load what the first line says, and measure for each further one."""
    job = json.loads(sys.stdin.readline())
    settings = Settings(**job["settings"])
    try:
        with _Loaded(Path(job["model"]), settings, job["n_ctx"], job["devices"], job["rpc"]) as loaded:
            _say({})
            for _ in sys.stdin:
                _say(asdict(loaded.measure()))
    except (Qwen35Error, MemoryError) as error:
        _say({"problem": str(error) or "out of memory"})


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


class _Loaded:
    """A model and a context with certain settings."""

    def __init__(self, path: Path, settings: Settings, n_ctx: int, devices: Sequence[str], rpc: Sequence[str]) -> None:
        self.settings, self.n_ctx = settings, n_ctx
        header = read_header(path)
        placed = offload.choose(header, settings.gpu_layers, offload.find(devices, rpc), ram=0)
        placed = offload.with_host_feed_forward(placed, header, settings.host_feed_forward)
        options, keep = offload.model_params(placed)
        self.model = Model(path, load_mtp=settings.draft, options=options | model_options(settings), keep=keep)
        self.context = self._context(settings.kv_type)
        self._once: tuple[float, float] | None = None
        ids = self.model.tokenize(TEXT)
        self.ids = (ids * (1 + max(PROMPT, settings.n_batch, BEHIND) // len(ids)))[: max(PROMPT, settings.n_batch)]
        self._evaluate(self.context, self.ids[:BEHIND])  # pages of the file come in, threads start

    def __enter__(self) -> _Loaded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.close()
        self.model.close()

    def _context(self, kv_type: str, *, rollback: int = 0, outputs: int = COMPARED, hidden: bool = False) -> Context:
        return Context(
            self.model,
            n_ctx=self.n_ctx,
            n_batch=min(self.settings.n_batch, self.n_ctx),
            n_threads=self.settings.threads,
            rollback=rollback,
            outputs=outputs,
            kv_type=kv_type,
            hidden=hidden,
            options=context_options(self.settings),
        )

    def _evaluate(self, context: Context, ids: Sequence[int], outputs: int = 1) -> None:
        context.clear()
        for at in range(0, len(ids), context.n_batch):
            part = ids[at : at + context.n_batch]
            context.evaluate(part, at, outputs=outputs if at + len(part) == len(ids) else 0)
        context.logits(-1)  # waits

    def measure(self) -> Measurement:
        """Take the figures."""
        start = time.perf_counter()
        self._evaluate(self.context, self.ids)
        prefill = len(self.ids) / (time.perf_counter() - start)
        self._evaluate(self.context, self.ids[:BEHIND])
        start = time.perf_counter()
        for i in range(ANSWER):
            self.context.evaluate([self.ids[BEHIND + i]], BEHIND + i, outputs=1)
            self.context.logits(-1)
        decode = ANSWER / (time.perf_counter() - start)
        if self._once is None:
            self._once = self._divergence(), self._drafting()
        return Measurement(prefill, decode, *self._once, memory=peak_memory())

    def _divergence(self) -> float:
        """Compare with an f16 cache: mean KL divergence in nats."""
        if self.settings.kv_type == "f16":
            return 0.0
        ids = self.ids[: min(self.context.n_batch, 4 * COMPARED)]
        rows = min(COMPARED, len(ids))
        self._evaluate(self.context, ids, rows)
        found = [log_softmax(self.context.logits(len(ids) - rows + i)) for i in range(rows)]
        reference = self._context("f16")
        try:
            self._evaluate(reference, ids, rows)
            expected = [log_softmax(reference.logits(len(ids) - rows + i)) for i in range(rows)]
        finally:
            reference.close()
        return float(np.mean([(np.exp(p) * (p - q)).sum() for p, q in zip(expected, found, strict=True)]))

    def _drafting(self) -> float:
        """Return the most that drafts gain, when all of them are right."""
        if not self.settings.draft:
            return 1.0
        trunk = self._context(self.settings.kv_type, rollback=MAX_DEPTH, outputs=1 + MAX_DEPTH, hidden=True)
        try:
            drafter = Drafter(
                self.model,
                trunk,
                n_threads=self.settings.threads,
                kv_type=self.settings.kv_type,
                options=context_options(self.settings),
            )
            try:
                verify, draft = measure_costs(trunk, drafter, MAX_DEPTH)
            finally:
                drafter.close()
        finally:
            trunk.close()
        return max(speed_up(verify, draft, [1.0] * MAX_DEPTH, depth) for depth in range(1 + MAX_DEPTH))


def log_softmax(logits: FloatArray) -> Any:
    """Normalize logits, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return wide - np.log(np.exp(wide).sum())


def peak_memory() -> int:
    """Return the most memory that this process has had, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


# ---- the other side ----------------------------------------------------------------------------------------------


@dataclass
class Trials:
    """Processes with loaded settings, the last used ones kept.

    Attributes:
        model: the GGUF.
        n_ctx: of the contexts.
        devices: names of the GPUs that may be used, or "cpu".
        rpc: workers.
        kept: how many processes live at once; one where memory holds the model only once.
        patience: seconds that loading or a measurement may take.

    """

    model: Path
    n_ctx: int
    devices: Sequence[str] = ()
    rpc: Sequence[str] = ()
    kept: int = 2
    patience: float = 300.0
    _live: OrderedDict[Settings, subprocess.Popen[str]] = field(default_factory=OrderedDict)

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._live:
            self._end(next(iter(self._live)))

    def measure(self, settings: Settings) -> Measurement:
        """Measure settings; what goes wrong is in `problem`."""
        process = self._live.get(settings)
        try:
            if process is None:
                process = self._start(settings)
            self._live.move_to_end(settings)
            answer = self._ask(process, "measure\n")
            return Measurement(**answer)
        except _TrialError as error:
            self._end(settings)
            return Measurement(problem=str(error))

    def _start(self, settings: Settings) -> subprocess.Popen[str]:
        while len(self._live) >= self.kept:
            self._end(next(iter(self._live)))
        command = [sys.executable, "-m", "qwen35_gguf.runtime.trial"]
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet, text=True)
        self._live[settings] = process
        job = {"model": str(self.model), "settings": asdict(settings), "n_ctx": self.n_ctx}
        job |= {"devices": list(self.devices), "rpc": list(self.rpc)}
        self._ask(process, json.dumps(job) + "\n")
        return process

    def _ask(self, process: subprocess.Popen[str], line: str) -> dict[str, Any]:
        if process.stdin is None or process.stdout is None:
            raise _TrialError("has no pipes")
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            raise _TrialError(_ending(process)) from None
        deadline = time.monotonic() + self.patience
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([process.stdout], [], [], left)[0]:
                break
            text = process.stdout.readline()
            if not text:
                raise _TrialError(_ending(process))
            if text.startswith("{"):  # libraries may print other lines
                answer: dict[str, Any] = json.loads(text)
                if answer.get("problem"):
                    raise _TrialError(answer["problem"])
                return answer
        raise _TrialError(f"took longer than {self.patience:.0f} s")

    def _end(self, settings: Settings) -> None:
        process = self._live.pop(settings, None)
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


class _TrialError(Exception):
    """A trial that gives no figures."""


def _ending(process: subprocess.Popen[str]) -> str:
    code = process.wait()
    return f"ended by signal {-code} (out of memory?)" if code < 0 else f"ended with code {code}"


if __name__ == "__main__":
    serve()
