"""Numbers of a GGUF's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.errors import ModelError


@dataclass(frozen=True)
class GgufReader:
    """Numbers of a GGUF's metadata; of a list with one value for each layer, the largest."""

    metadata: Mapping[str, Any]
    where: str
    prefix: str

    def count(self, key: str, default: int | None = None) -> int:
        """Return a number that may be 0; without a default the entry must exist."""
        value = self.metadata.get(self.prefix + key, default)
        if value is None:
            raise ModelError(f"{self.where}: has no {self.prefix}{key}; make it again with `qwen35 convert`")
        if isinstance(value, Sequence) and not isinstance(value, str) and value:
            value = max(value)  # 0 for the layers without
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelError(f"{self.where}: {self.prefix}{key} is {value!r}, not a count; convert it again")
        return value

    def size(self, key: str, most: int | None = None) -> int:
        """Return a positive number, no larger than `most`."""
        value = self.count(key)
        if not value:
            raise ModelError(f"{self.where}: {self.prefix}{key} is 0; convert or download it again")
        if most is not None and value > most:
            raise ModelError(
                f"{self.where}: {self.prefix}{key} is {value:,}, more than {most:,}; convert or download it again"
            )
        return value
