"""One trial of settings, in a process of its own: its memory, and whatever it breaks, end with it.

`python -m qwen35_gguf.runtime.tuning.trial` reads a `Job` as a line of JSON, loads it, then measures whenever another
line comes, and answers each with a line of JSON. `Trials` is the other side. Both find the same plan for "auto", since
both plan with the memory that was free before the first trial.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import Qwen35Error
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.quant.divergence import log_softmax
from qwen35_gguf.runtime.engine.drafts.draft_depth import MAX_DEPTH, speed_up
from qwen35_gguf.runtime.engine.drafts.measured_costs import measure_costs
from qwen35_gguf.runtime.engine.drafts.mtp import Drafter, head_context
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.devices import CPU, Device, Offload
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.llama.rpc import say_hello
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.device_reserve import in_another_process
from qwen35_gguf.runtime.settings import Settings, context_spec, from_record, memory_request, model_spec
from qwen35_gguf.runtime.tuning.search import Measurement

Predictions = npt.NDArray[np.float64]

PROMPT, ANSWER = 512, 24  # tokens of a measurement; the prompt is at least one batch
BEHIND = 64  # tokens evaluated before the answer
COMPARED = 48  # rows of logits whose divergence counts
TEXT = (
    "The river rises in the hills, turns east below the old mill, and reaches the sea after ninety miles. In 1874 the "
    "engineers measured its depth at twelve places: `depth = [3.2, 4.1, 2.8]` metres, they wrote, and the mean was "
    "lower than anyone had thought. Why? Because the dry summer before had left little water behind the weir. "
)


@dataclass(frozen=True)
class Job:
    """What a trial loads.

    Attributes:
        model: path of the GGUF.
        settings: to load it with.
        n_ctx: of the context.
        ram: bytes of RAM that may be used.
        devices: names of the GPUs that may be used, or "cpu".
        rpc: RPC servers, host:port.
        free: bytes that were free on each device that is found; empty: none is looked for.

    """

    model: str
    settings: Settings
    n_ctx: int
    ram: int
    devices: tuple[str, ...] = ()
    rpc: tuple[str, ...] = ()
    free: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, line: str) -> Job:
        """Read what `dataclasses.asdict` gave, as JSON."""
        record = json.loads(line)
        return cls(**record | {"settings": from_record(record["settings"])})


def place(header: GgufHeader, settings: Settings, devices: Sequence[Device], *, ram: int, n_ctx: int) -> Offload:
    """Decide where a trial's layers go: where they would be when the model is loaded with these settings."""
    request = memory_request(settings, settings.depth, n_ctx=n_ctx)
    return offload.of_settings(header, settings, devices, request, ram=ram)


# ---- in the process ----------------------------------------------------------------------------------------------


def serve() -> None:
    """Load the job of the first line, and measure for each further line."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print

        def send(answer: dict[str, Any]) -> None:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

        try:
            with _Loaded(Job.from_json(sys.stdin.readline())) as loaded:
                send({})
                for _ in sys.stdin:
                    send(asdict(loaded.measure()))
        except (Qwen35Error, MemoryError) as error:
            send({"problem": str(error) or "out of memory"})


class _Loaded:
    """A model and a context with the settings of a job."""

    def __init__(self, job: Job) -> None:
        self.settings, self.n_ctx = job.settings, job.n_ctx
        path, settings, devices = Path(job.model), job.settings, list[Device]()
        if job.free:
            found = offload.find(job.devices, job.rpc)
            devices = [replace(device, free=free) for device, free in zip(found, job.free, strict=True)]
        placed = place(read_header(path), settings, devices, ram=job.ram, n_ctx=self.n_ctx)
        self.model = Model(path, model_spec(settings, placed, mtp=settings.draft))
        self.context = self._context(settings.kv_type)
        self._once: tuple[float, float] | None = None
        ids = self.model.tokenize(TEXT)
        self.ids = (ids * (1 + max(PROMPT, settings.n_batch, BEHIND) // len(ids)))[: max(PROMPT, settings.n_batch)]
        self._evaluate(self.context, self.ids[:BEHIND])  # pages of the file come in, threads start
        if placed.devices:
            self._rates()  # kernels are compiled, work memory is taken

    def __enter__(self) -> _Loaded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.close()
        self.model.close()

    def _context(
        self,
        kv_type: str,
        *,
        rollback: int = 0,
        outputs: int = COMPARED,
        hidden: bool = False,
        flash: bool | None = None,
    ) -> Context:
        spec = context_spec(self.settings, self.n_ctx)
        spec = replace(
            spec,
            flash_attention=spec.flash_attention if flash is None else flash,
            n_batch=min(self.settings.n_batch, self.n_ctx),
            kv_type=kv_type,
            n_rs_seq=rollback,
            n_outputs=outputs,
        )
        return Context(self.model, spec, hidden=hidden)

    def _evaluate(self, context: Context, ids: Sequence[int], outputs: int = 1) -> None:
        context.clear()
        for at in range(0, len(ids), context.n_batch):
            part = ids[at : at + context.n_batch]
            context.evaluate(part, at, outputs=outputs if at + len(part) == len(ids) else 0)
        context.logits(-1)  # waits

    def _rates(self) -> tuple[float, float]:
        """Return tokens/s of the prompt and of the answer."""
        start = time.perf_counter()
        self._evaluate(self.context, self.ids)
        prefill = len(self.ids) / (time.perf_counter() - start)
        self._evaluate(self.context, self.ids[:BEHIND])
        start = time.perf_counter()
        for i in range(ANSWER):
            self.context.evaluate([self.ids[BEHIND + i]], BEHIND + i, outputs=1)
            self.context.logits(-1)
        return prefill, ANSWER / (time.perf_counter() - start)

    def measure(self) -> Measurement:
        """Take the figures."""
        prefill, decode = self._rates()
        if self._once is None:
            self._once = self._divergence(), self._drafting()
        return Measurement(prefill, decode, *self._once, memory=peak_memory())

    def _divergence(self) -> float:
        """Return what the KV type adds to F16's mean KL divergence, in nats, as bench/depth/kv_quality.py does."""
        if self.settings.kv_type == "f16":
            return 0.0
        exact = self._predictions("f32", flash=False)  # with flash attention llama.cpp converts it to F16
        ours, usual = (mean_kl(exact, self._predictions(name)) for name in (self.settings.kv_type, "f16"))
        return max(0.0, ours - usual)

    def _predictions(self, kv_type: str, *, flash: bool | None = None) -> Predictions:
        """Evaluate a batch with another KV cache; log-probabilities of its last rows."""
        ids = self.ids[: min(self.context.n_batch, 4 * COMPARED)]
        rows = min(COMPARED, len(ids))
        with contextlib.closing(self._context(kv_type, flash=flash)) as context:
            self._evaluate(context, ids, rows)
            return np.array([log_softmax(context.logits(len(ids) - rows + i), np.float64) for i in range(rows)])

    def _drafting(self) -> float:
        """Return the most that drafts gain: when all of them are right, and read the fewest rows."""
        if not self.settings.draft:
            return 1.0
        has_head = self.model.has_head
        main = self._context(self.settings.kv_type, rollback=MAX_DEPTH, outputs=1 + MAX_DEPTH, hidden=has_head)
        try:
            if has_head:
                with head_context(self.model, main) as head:
                    drafter = Drafter(head, self.model.n_embd)
                    verify, draft, rows = measure_costs(main, drafter, MAX_DEPTH)
            else:
                verify, draft, rows = measure_costs(main, None, MAX_DEPTH)
        finally:
            main.close()
        draft *= 1.0 if rows is None else rows.share
        return max(speed_up(verify, draft, [1.0] * MAX_DEPTH, depth) for depth in range(1 + MAX_DEPTH))


def mean_kl(reference: Predictions, other: Predictions) -> float:
    """Return the mean over rows of KL(reference || other), from log-probabilities, in nats."""
    return float((np.exp(reference) * (reference - other)).sum(-1).mean())


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
        rpc: RPC servers, host:port.
        found: the devices of these names, with the memory that this process finds free; a trial has less of it.
        ram: bytes of RAM that may be used.
        kept: processes that may live at the same time; one where memory holds the model only once.
        side_by_side: whether two of them may use devices: not where these hold the model only once, nor with an RPC
            server, which serves one client at a time.
        patience: seconds that loading or a measurement may take.

    """

    model: Path
    n_ctx: int
    devices: Sequence[str] = ()
    rpc: Sequence[str] = ()
    found: Sequence[Device] = ()
    ram: int = 0
    kept: int = 2
    side_by_side: bool = False
    patience: float = 300.0
    _live: OrderedDict[Settings, subprocess.Popen[str]] = field(default_factory=OrderedDict)
    _placed: dict[Settings, Offload] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.found = [in_another_process(device) for device in self.found]

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._live:
            self._end(next(iter(self._live)))

    @functools.cached_property
    def _header(self) -> GgufHeader:
        return read_header(self.model)

    def place(self, settings: Settings) -> Offload:
        """Return where a trial's layers go; errors are those of `offload.choose`."""
        if settings not in self._placed:
            self._placed[settings] = place(self._header, settings, self.found, ram=self.ram, n_ctx=self.n_ctx)
        return self._placed[settings]

    def effect(self, settings: Settings) -> Hashable:
        """Return what makes a difference between settings: where layers are, instead of how that is expressed."""
        try:
            placed = self.place(settings)
        except Qwen35Error:  # to be measured, which fails
            return settings
        return replace(settings, gpu_layers=0, host_feed_forward=0, split=()), placed

    def rank(self, settings: Settings) -> float:
        """Count the layers on devices; parts of layers that are moved to the CPU or from there count as half of one."""
        try:
            placed = self.place(settings)
        except Qwen35Error:
            return 0.0
        count = offload.most_layers(self._header) if placed.n_gpu_layers == offload.ALL else placed.n_gpu_layers
        moved = {name for _, name in placed.overrides}
        return count - 0.5 if CPU in moved else count + 0.5 if moved else count

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
        try:
            self._make_room(settings)
        except Qwen35Error as error:
            raise _TrialError(str(error)) from None
        command = [sys.executable, "-m", "qwen35_gguf.runtime.tuning.trial"]
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet, text=True)
        self._live[settings] = process
        # A trial that needs no device looks for none: an RPC server may be busy with another one.
        free = tuple(device.free for device in self.found) if self.place(settings).devices else ()
        job = Job(str(self.model), settings, self.n_ctx, self.ram, tuple(self.devices), tuple(self.rpc), free)
        self._ask(process, json.dumps(asdict(job)) + "\n")
        return process

    def _make_room(self, settings: Settings) -> None:
        """End the processes that this one may not live beside, and wait until the RPC servers are free."""
        on_devices = bool(self.place(settings).devices)
        if on_devices and not self.side_by_side:
            for other in [other for other in self._live if self.place(other).devices]:
                self._end(other)
        while len(self._live) >= self.kept:
            self._end(next(iter(self._live)))
        for endpoint in self.rpc if on_devices else ():
            say_hello(
                endpoint, self.patience
            )  # it answers as soon as it has finished the request of a process that ended

    def _ask(self, process: subprocess.Popen[str], line: str) -> dict[str, Any]:
        if process.stdin is None or process.stdout is None:
            raise _TrialError("has no pipes")
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            raise _TrialError(_ending(process)) from None
        if not select.select([process.stdout], [], [], self.patience)[0]:
            raise _TrialError(f"took longer than {self.patience:.0f} s")
        text = process.stdout.readline()
        if not text:
            raise _TrialError(_ending(process))
        answer: dict[str, Any] = json.loads(text)
        if answer.get("problem"):
            raise _TrialError(answer["problem"])
        return answer

    def _end(self, settings: Settings) -> None:
        process = self._live.pop(settings, None)
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # a request that was never read
                        pipe.close()


class _TrialError(Exception):
    """A trial that gives no figures."""


def _ending(process: subprocess.Popen[str]) -> str:
    code = process.wait()
    return f"ended by signal {-code} (out of memory?)" if code < 0 else f"ended with code {code}"


if __name__ == "__main__":
    serve()
