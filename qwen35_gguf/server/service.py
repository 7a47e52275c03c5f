"""What the handlers of all APIs share."""

from __future__ import annotations

from dataclasses import dataclass

from qwen35_gguf.server.models import Models
from qwen35_gguf.server.settings import ServerSettings


@dataclass(frozen=True)
class Service:
    """A running server: its settings and its models."""

    settings: ServerSettings
    models: Models
