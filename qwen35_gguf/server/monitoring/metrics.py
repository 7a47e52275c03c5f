"""What a server counts: requests, tokens, what was reused, drafts, times, queues."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from qwen35_gguf.runtime.chat.openai_types import Timings
from qwen35_gguf.server.models import Models
from qwen35_gguf.server.monitoring.exposition import Family, Histogram, exposition, gauge

Piece = TypeVar("Piece")

FIRST_TOKEN = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)  # seconds
GAP = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
MODEL = ("model",)


class Metrics:
    """The counts of one server."""

    def __init__(self, models: Models) -> None:
        """Count from zero."""
        self._models = models
        self._requests = Family("qwen35_requests_total", "Requests by path and status.", ("path", "status"))
        self._tokens = {
            name: Family(f"qwen35_{name}_total", text, MODEL)
            for name, text in (
                ("prompt_tokens", "Tokens of prompts."),
                ("reused_tokens", "Of these, tokens that were not evaluated again."),
                ("tokens", "Generated tokens."),
                ("drafted", "Tokens that the MTP head drafted."),
                ("accepted", "Of these, accepted ones."),
                ("prompt_seconds", "Seconds of evaluating prompts."),
                ("seconds", "Seconds of generating."),
            )
        }
        self._first = Histogram("qwen35_first_token_seconds", "From the request to its first piece.", FIRST_TOKEN)
        self._gap = Histogram("qwen35_gap_seconds", "Between two pieces of a stream.", GAP)

    def text(self) -> str:
        """Return all counts in Prometheus' text format."""
        served = self._models.served.values()
        states = (
            gauge("qwen35_requests_running", "Requests that have a model.", {(m.name,): m.running for m in served}),
            gauge(
                "qwen35_requests_waiting",
                "Requests that wait for a model.",
                {(m.name,): m.users - m.running for m in served},
            ),
            gauge("qwen35_loaded", "1 if a model is loaded.", {(m.name,): m.state == "loaded" for m in served}),
            gauge(
                "qwen35_planned_bytes",
                "Memory that a loaded model may take.",
                {(m.name,): m.needs * (m.state == "loaded") for m in served},
            ),
        )
        return exposition([self._requests, *self._tokens.values(), self._first, self._gap, *states])

    def request(self, path: str, status: int) -> None:
        """Count a request; `path` is one of the server's own."""
        self._requests.add(path, str(status))

    def answered(self, model: str, result: Any) -> None:
        """Count the tokens of an answer, or of its last piece, if it has timings."""
        timings = getattr(result, "timings", None)
        if isinstance(timings, Timings):
            for name, family in self._tokens.items():
                family.add(model, amount=getattr(timings, name))

    async def measured(self, model: str, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        """Pass pieces on, and record when they came."""
        last, histogram = time.perf_counter(), self._first
        async for piece in pieces:
            now = time.perf_counter()
            histogram.observe(model, now - last)
            histogram, last = self._gap, now
            self.answered(model, piece)
            yield piece
