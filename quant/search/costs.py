"""The file of costs: what each tensor costs in each type. `qwen35 sensitivity` writes it, `qwen35 recipe` reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType

from qwen35_gguf.atomic_file import write_text
from qwen35_gguf.errors import CostsError
from qwen35_gguf.json_file import COUNT, FLAG, LIST, NUMBER, SIZE, TEXT, JsonObject, Kind, list_of, one_of, read_json
from qwen35_gguf.quant.rounding.moments import RECORDED

Type = GGMLQuantizationType
FORMAT = "qwen35 costs 1"
ADVICE = "give a file made by `qwen35 sensitivity`, or measure again"
NOT_NEGATIVE = Kind[float]("a number, 0 or more", lambda value: NUMBER.accepts(value) and value >= 0)


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
        rounding: by second moments, block or full; empty: each block alone.
        moments: the file of them; empty: none.

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
    rounding: str = ""
    moments: str = ""

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
    if not path.is_file():
        raise CostsError(f"{path}: No such file; {ADVICE}")
    data = read_json(path, error=CostsError, advice=ADVICE)
    if data.need("format", TEXT) != FORMAT:
        raise data.mistake("format", f'"{FORMAT}"')
    return Costs(
        model=data.need("model", TEXT),
        identity=data.need("identity", TEXT),
        layers=data.need("layers", COUNT),
        weights=data.need("weights", SIZE),
        header_bytes=data.need("header_bytes", COUNT),
        fixed_bytes=data.need("fixed_bytes", COUNT),
        costs=[_cost(row, number, data) for number, row in enumerate(data.need("costs", list_of(LIST)))],
        measured=data.get("measured", FLAG, True),
        imatrix=data.get("imatrix", TEXT, ""),
        rounding=data.get("rounding", RECORDED, ""),
        moments=data.get("moments", TEXT, ""),
    )


def _cost(row: list[Any], number: int, data: JsonObject) -> Cost:
    named = dict(zip(("tensor", "type", "bytes", "error", "divergence"), row, strict=False))
    read = data.inner(named, f"costs[{number}]")
    return Cost(
        read.need("tensor", TEXT),
        Type.__members__[read.need("type", one_of(*Type.__members__))],
        read.need("bytes", SIZE),
        float(read.need("error", NUMBER)),
        float(read.need("divergence", NOT_NEGATIVE)),
    )
