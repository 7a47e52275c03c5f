"""From costs to a recipe: the assignment of types that keeps a size and costs least."""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGMLQuantizationType

from qwen35_gguf.errors import RecipeError
from qwen35_gguf.quant import recipe_file
from qwen35_gguf.quant.recipe_file import MTP, split_name
from qwen35_gguf.quant.search.assignment import Assignment, Option, assign, smallest
from qwen35_gguf.quant.search.costs import Costs
from qwen35_gguf.units import format_file_size

Type = GGMLQuantizationType
DRAFT_WEIGHT = 0.05  # of the head's divergence: a wrong draft costs time, and no quality


@dataclass(frozen=True)
class Solution:
    """The chosen types.

    Attributes:
        types: by tensor.
        size: bytes of the file.
        bits: per weight.
        expected: divergence in nats: the sum of what each tensor of the main model costs alone, measured or estimated.
        gap: upper bound of how much lower the best cost could be; 0: none is lower.

    """

    types: dict[str, Type]
    size: int
    bits: float
    expected: float
    gap: float


def options(costs: Costs, *, by_kind: bool = False) -> dict[str, list[Option[Type]]]:
    """List the types to choose from for each tensor, or for all tensors of a kind together."""
    found: dict[str, dict[Type, Option[Type]]] = {}
    counts: dict[str, dict[Type, int]] = {}
    for cost in costs.costs:
        kind, layer = split_name(cost.tensor, costs.layers)
        weight = DRAFT_WEIGHT if layer == -1 else 1.0
        key = (f"{MTP}.{kind}" if layer == -1 else kind) if by_kind else cost.tensor
        before = found.setdefault(key, {}).get(cost.type, Option(cost.type, 0, 0.0))
        # A tiny term of the error, for what was too small to be measured.
        own = weight * (cost.divergence + 1e-9 * cost.error)
        found[key][cost.type] = Option(cost.type, before.size + cost.bytes, before.cost + own)
        counts.setdefault(key, {}).setdefault(cost.type, 0)
        counts[key][cost.type] += 1
    # Only types that all tensors of a kind can have are options for the kind.
    return {
        key: [option for type_, option in table.items() if counts[key][type_] == max(counts[key].values())]
        for key, table in found.items()
    }


def for_size(costs: Costs, size: int, *, by_kind: bool = False) -> Solution:
    """Find the best assignment for a file of at most `size` bytes.

    Raises:
        RecipeError: even the smallest types do not fit.

    """
    table = options(costs, by_kind=by_kind)
    found = assign(table, size - costs.fixed_bytes - costs.header_bytes)
    if found is None:
        least = costs.fixed_bytes + costs.header_bytes + sum(min(o.size for o in tensor) for tensor in table.values())
        raise RecipeError(
            f"{format_file_size(size)}: is too small; "
            f"the smallest types that were measured need {format_file_size(least)}"
        )
    return _solution(costs, found)


def for_bits(costs: Costs, bits: float, *, by_kind: bool = False) -> Solution:
    """Find the best assignment for `bits` per weight over all tensors; errors as of `for_size`."""
    return for_size(costs, int(bits * costs.weights / 8) + costs.header_bytes, by_kind=by_kind)


def for_divergence(costs: Costs, limit: float, *, by_kind: bool = False) -> Solution:
    """Find the smallest assignment whose expected divergence, with the drafts' small share, is at most `limit`.

    Raises:
        RecipeError: the largest types are not good enough.

    """
    table = options(costs, by_kind=by_kind)
    found = smallest(table, limit)
    if found is None:
        best = sum(min(o.cost for o in tensor) for tensor in table.values())
        raise RecipeError(f"{limit:g}: is less than the best types that were measured can do, {best:.2g}")
    return _solution(costs, found)


def _solution(costs: Costs, found: Assignment[Type]) -> Solution:
    types: dict[str, Type] = {}
    for tensor in costs.by_tensor():
        kind, layer = split_name(tensor, costs.layers)
        key = tensor if tensor in found.choices else f"{MTP}.{kind}" if layer == -1 else kind
        types[tensor] = found.choices[key]
    alone = {(c.tensor, c.type): c.divergence for c in costs.costs}
    expected = sum(alone[name, type_] for name, type_ in types.items() if split_name(name, costs.layers)[1] != -1)
    size = found.size + costs.fixed_bytes
    return Solution(types, size + costs.header_bytes, 8 * size / costs.weights, expected, found.gap)


def as_recipe(costs: Costs, solution: Solution, name: str, base: str) -> str:
    """Write a solution as the text of a recipe."""
    kind = "measured" if costs.measured else "estimated from weighted errors"
    about = [
        f"{costs.model}: {format_file_size(solution.size)}, {solution.bits:.2f} bits per weight,",
        f"divergence {solution.expected:.2g} nats if the parts add up ({kind})",
    ]
    if costs.rounding:
        about.append(f"with --rounding {costs.rounding}: convert with it as well")
    return recipe_file.to_text(name, base, solution.types, costs.layers, about)
