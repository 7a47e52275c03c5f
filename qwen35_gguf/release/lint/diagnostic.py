"""What a check reports, and what it reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.gguf_file.keyvalue import KeyValue

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Diagnostic:
    """One problem.

    Attributes:
        severity: "error" for a file that does not load or gives wrong answers, "warning" for what fails in some
            programs or for some requests, "note" for what a publisher may intend.
        check: the name of the check.
        where: the key, tensor or file.
        what: what is wrong with it.
        advice: what to do.

    """

    severity: Severity
    check: str
    where: str
    what: str
    advice: str


class Stored(NamedTuple):
    """A tensor and the file that holds it."""

    tensor: TensorInfo
    layout: GgufHeader

    @property
    def start(self) -> int:
        """Offset of its data in the file, in bytes."""
        return self.layout.data_start + self.tensor.offset


@dataclass(frozen=True, eq=False)
class Subject:
    """A model: one file or all of its shards, and its vision encoder.

    Attributes:
        shards: the first one has the metadata.
        tensors: by name, in the file's order.
        vision_encoders: mmproj files to be compared with a text model.
        named: whether the vision encoder was named, rather than found beside the model.

    """

    shards: tuple[GgufHeader, ...]
    tensors: dict[str, Stored]
    vision_encoders: tuple[GgufHeader, ...] = ()
    named: bool = False

    @property
    def path(self) -> Path:
        """The file, or the first shard."""
        return self.shards[0].path

    @property
    def arch(self) -> str:
        """`general.architecture`."""
        return str(self.get("general.architecture", "unknown"))

    def entry(self, key: str) -> KeyValue | None:
        """Look an entry up."""
        return self.shards[0].find(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Look a value up; `{arch}` in the key stands for the architecture."""
        arch = self.shards[0].value("general.architecture", "unknown") if "{arch}" in key else ""
        return self.shards[0].value(key.replace("{arch}", str(arch)), default)

    def number(self, key: str, default: int = 0) -> int:
        """Look a number up; of a list with a number for each layer, the largest."""
        value = self.get(key, default)
        if isinstance(value, list):
            value = max((item for item in value if isinstance(item, int | float)), default=default)
        return int(value) if isinstance(value, int | float) else default

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape in NumPy order; () if there is none."""
        return self.tensors[name].tensor.shape if name in self.tensors else ()


def subject(
    shards: tuple[GgufHeader, ...], vision_encoders: tuple[GgufHeader, ...] = (), *, named: bool = False
) -> Subject:
    """Collect the headers of a model."""
    tensors = {tensor.name: Stored(tensor, shard) for shard in shards for tensor in shard.tensors}
    return Subject(shards, tensors, vision_encoders, named)
