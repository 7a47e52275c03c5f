"""What the handlers of all APIs share."""

from __future__ import annotations

from dataclasses import dataclass

from qwen35_gguf.server.models import Models
from qwen35_gguf.server.monitoring.metrics import Metrics
from qwen35_gguf.server.settings import ServerSettings


@dataclass(frozen=True)
class Service:
    """A running server: its settings, its models, and what it counts."""

    settings: ServerSettings
    models: Models
    metrics: Metrics
