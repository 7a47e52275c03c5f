"""The file of costs: what each tensor costs in each type. `qwen35 sensitivity` writes it, `qwen35 recipe` reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType

from qwen35_gguf.atomic_file import write_text
from qwen35_gguf.errors import CostsError

Type = GGMLQuantizationType
FORMAT = "qwen35 costs 1"


@dataclass(frozen=True)
class Cost:
    """One tensor in one type.

    Attributes:
        tensor: its name.
        type: that it was quantized to.
        bytes: its size in that type.
        error: sum of its weighted squared errors over that of its weights.
        divergence: mean, in nats; of the drafts for a tensor of the MTP head.

    """

    tensor: str
    type: Type
    bytes: int
    error: float
    divergence: float


@dataclass
class Costs:
    """The costs of a model's tensors.

    Attributes:
        model: the reference's name.
        identity: of the reference, the text and the importance matrix: only equal ones may be joined.
        layers: of the main model.
        weights: of the whole model.
        header_bytes: of the file before its tensors.
        fixed_bytes: of the tensors that no type is chosen for.
        costs: what was measured.
        measured: whether the divergences were; otherwise they are estimates from the errors.
        imatrix: the file of the importance matrix that weighted the errors; empty: none.

    """

    model: str
    identity: str
    layers: int
    weights: int
    header_bytes: int
    fixed_bytes: int
    costs: list[Cost] = field(default_factory=list)
    measured: bool = True
    imatrix: str = ""

    def by_tensor(self) -> dict[str, list[Cost]]:
        """Group them."""
        found: dict[str, list[Cost]] = {}
        for cost in self.costs:
            found.setdefault(cost.tensor, []).append(cost)
        return found


def write(costs: Costs, path: Path) -> None:
    """Write them as JSON, whole or not at all.

    Raises:
        OutputError: the file cannot be written.

    """
    head = {key: value for key, value in vars(costs).items() if key != "costs"}
    rows = [[c.tensor, c.type.name, c.bytes, c.error, c.divergence] for c in costs.costs]
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_text(path, f'{{"format": "{FORMAT}", {json.dumps(head)[1:-1]}, "costs": [\n{lines}\n]}}\n')


def read(path: Path) -> Costs:
    """Read them.

    Raises:
        CostsError: the file is missing, damaged or something else.

    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        rows: Iterable[Any] = data.pop("costs")
        found = Costs(**data, costs=[_cost(row) for row in rows])
        numbers = (found.layers, found.weights, found.header_bytes, found.fixed_bytes)
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or not found.weights or not _is_text(found.imatrix):
            raise ValueError("invalid sizes")
    except OSError as error:
        raise CostsError(f"{path}: {error.strerror or error}; give a file made by `qwen35 sensitivity`") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CostsError(
            f"{path}: is damaged, or was not made by `qwen35 sensitivity` ({error}); measure again"
        ) from None
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _cost(row: Any) -> Cost:
    tensor, name, size, error, divergence = row
    sensible = isinstance(size, int) and size > 0 and math.isfinite(error) and math.isfinite(divergence)
    if not sensible or divergence < 0:
        raise ValueError(f"invalid costs of {tensor}")
    return Cost(str(tensor), Type.__members__[name], size, float(error), float(divergence))
