"""From costs to a recipe: the assignment of types that keeps a size and costs least."""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGMLQuantizationType

from qwen35_gguf.errors import RecipeError
from qwen35_gguf.quant import recipe_file
from qwen35_gguf.quant.assignment import Assignment, Option, assign, smallest
from qwen35_gguf.quant.costs import Costs
from qwen35_gguf.quant.recipe_file import place

Type = GGMLQuantizationType
DRAFT_WEIGHT = 0.05  # of the head's divergence: a wrong draft costs time, and no quality


@dataclass(frozen=True)
class Solution:
    """What was found: types by tensor, bytes of the file, bits per weight, the divergence that is expected.

    `expected` is the sum of what each trunk tensor costs alone, in nats (an estimate where nothing was measured).
    """

    types: dict[str, Type]
    size: int
    bits: float
    expected: float
    gap: float


def options(costs: Costs) -> dict[str, list[Option[Type]]]:
    """List what there is to choose from for each tensor."""
    found: dict[str, list[Option[Type]]] = {}
    for tensor, known in costs.by_tensor().items():
        head = place(tensor, costs.layers)[1] == -1
        weight = DRAFT_WEIGHT if head else 1.0
        # A tiny term of the error, for what was too small to be measured.
        found[tensor] = [Option(c.type, c.bytes, weight * (c.divergence + 1e-9 * c.error)) for c in known]
    return found


def for_size(costs: Costs, size: int) -> Solution:
    """Find the best assignment for a file of at most `size` bytes.

    Raises:
        RecipeError: even the smallest types do not fit.

    """
    table = options(costs)
    found = assign(table, size - costs.fixed_bytes)
    if found is None:
        least = costs.fixed_bytes + sum(min(o.size for o in tensor) for tensor in table.values())
        raise RecipeError(
            f"{size / 1e6:,.1f} MB: is too small; the smallest types that were measured need {least / 1e6:,.1f} MB"
        )
    return _solution(costs, found)


def for_bits(costs: Costs, bits: float) -> Solution:
    """Find the best assignment for so many bits per weight; errors as of `for_size`."""
    return for_size(costs, int(bits * costs.weights / 8))


def for_divergence(costs: Costs, limit: float) -> Solution:
    """Find the smallest assignment whose expected divergence is at most `limit`.

    Raises:
        RecipeError: the largest types are not good enough.

    """
    found = smallest(options(costs), limit)
    if found is None:
        best = sum(min(o.cost for o in tensor) for tensor in options(costs).values())
        raise RecipeError(f"{limit:g}: is less than the best types that were measured can do, {best:.2g}")
    return _solution(costs, found)


def _solution(costs: Costs, found: Assignment[Type]) -> Solution:
    size = found.size + costs.fixed_bytes
    alone = {(c.tensor, c.type): c.divergence for c in costs.costs}
    trunk = [name for name in found.choices if place(name, costs.layers)[1] != -1]
    expected = sum(alone[name, found.choices[name]] for name in trunk)
    return Solution(dict(found.choices), size, 8 * size / costs.weights, expected, found.gap)


def as_recipe(costs: Costs, solution: Solution, name: str, base: str) -> str:
    """Write a solution as the text of a recipe."""
    kind = "measured" if costs.measured else "estimated from weighted errors"
    about = [
        f"{costs.model}: {solution.size / 1e6:,.1f} MB, {solution.bits:.2f} bits per weight,",
        f"divergence {solution.expected:.2g} nats if the parts add up ({kind})",
    ]
    return recipe_file.write(name, base, solution.types, costs.layers, about)
