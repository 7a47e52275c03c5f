"""What a server counts: requests, times of pieces, and what the schedulers of its models do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TypeVar

from qwen35_gguf.runtime.engine.snapshot import GAPS, Snapshot
from qwen35_gguf.server.models import Models
from qwen35_gguf.server.monitoring.exposition import Family, Histogram, exposition, gauge

Piece = TypeVar("Piece")

FIRST_TOKEN = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)  # seconds
GAP = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
MODEL = ("model",)

# Sums of a scheduler: the name of the metric, the field of `Counters`, what it is.
SUMS = (
    ("prompt_tokens", "prompt_tokens", "Tokens of prompts."),
    ("reused_tokens", "reused_tokens", "Of these, tokens that were not evaluated again."),
    ("tokens", "tokens", "Generated tokens."),
    ("drafted", "drafted", "Tokens that were drafted."),
    ("accepted", "accepted", "Of these, accepted ones."),
    ("prompt_seconds", "prompt_seconds", "Seconds of evaluating prompts."),
    ("seconds", "answer_seconds", "Seconds of generating."),
    ("answers", "requests", "Answers that are over."),
    ("failed_answers", "failed", "Of these, those that failed or whose client left."),
    ("steps", "steps", "Calls that advanced the running answers."),
)


def _busy(now: Snapshot) -> float:
    return sum(slot.phase != "idle" for slot in now.slots)


# What a scheduler does now: the name of the metric, how it is read, what it is.
STATES = (
    ("slots", lambda now: len(now.slots), "Sequences."),
    ("slots_busy", _busy, "Of these, those with a request."),
    ("queue", lambda now: now.waiting, "Requests that wait for a sequence."),
    ("suspended", lambda now: now.suspended, "Answers that gave way, because nobody reads them."),
    ("cache_bytes", lambda now: now.cache_bytes, "States of prompts in memory."),
    ("cache_limit_bytes", lambda now: now.cache_limit, "Of these at most."),
    ("stored_states", lambda now: now.stored_states, "States of prompts on disk."),
    ("longest_gap_seconds", lambda now: now.counters.longest_gap, "The longest that an answer waited for a token."),
)


class Metrics:
    """The counts of one server."""

    def __init__(self, models: Models) -> None:
        """Count from zero."""
        self._models = models
        self._requests = Family("qwen35_requests_total", "Requests by path and status.", ("path", "status"))
        self._first = Histogram("qwen35_first_token_seconds", "From the request to its first piece.", FIRST_TOKEN)
        self._gap = Histogram("qwen35_gap_seconds", "Between two pieces of a stream.", GAP)

    def text(self) -> str:
        """Return all counts in Prometheus' text format."""
        served = self._models.served.values()
        counters = {m.name: m.counters for m in served}
        now = {m.name: snapshot for m in served if (snapshot := m.snapshot()) is not None}
        engine = Histogram(
            "qwen35_token_gap_seconds",
            "How long running answers waited for their next token.",
            GAPS,
            {name: counted.gaps for name, counted in counters.items()},
            {name: counted.gap_seconds for name, counted in counters.items()},
        )
        sums = (
            Family(f"qwen35_{name}_total", text, MODEL, numbers={(m,): getattr(c, field) for m, c in counters.items()})
            for name, field, text in SUMS
        )
        states = (
            gauge(f"qwen35_{name}", text, {(m,): float(read(snapshot)) for m, snapshot in now.items()})
            for name, read, text in STATES
        )
        loading = (
            gauge("qwen35_requests_running", "Requests that have a model.", {(m.name,): m.running for m in served}),
            gauge(
                "qwen35_requests_waiting",
                "Requests that wait for a model to be loaded.",
                {(m.name,): m.users - m.running for m in served},
            ),
            gauge("qwen35_loaded", "1 if a model is loaded.", {(m.name,): m.state == "loaded" for m in served}),
            gauge(
                "qwen35_planned_bytes",
                "Memory that a loaded model may take.",
                {(m.name,): m.needs * (m.state == "loaded") for m in served},
            ),
        )
        return exposition([self._requests, *sums, self._first, self._gap, engine, *states, *loading])

    def request(self, path: str, status: int) -> None:
        """Count a request; `path` is one of the server's own."""
        self._requests.add(path, str(status))

    async def measured(self, model: str, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        """Pass pieces on, and record when they came."""
        last, histogram = time.perf_counter(), self._first
        async for piece in pieces:
            now = time.perf_counter()
            histogram.observe(model, now - last)
            histogram, last = self._gap, now
            yield piece
