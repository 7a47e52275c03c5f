"""What config.json tells about quantized weights, in the same words for every method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """How the weights of a module were quantized; the shapes of the tensors decide, and these must agree.

    Attributes:
        where: the file and key that they are from.
        bits: widths that the configuration mentions; empty if it mentions none.
        group_sizes: columns that share a scale; -1 is a whole row.
        blocks: rows and columns that share a scale.
        symmetric: whether there are no zero points; None if the configuration does not tell.
        zero_offset: is added to stored zero points (GPTQ's first layout stores one less).
        row_packed: AWQ's GEMV layout, with the words along a row.
        mode: MLX's kind of quantization.

    """

    where: str
    bits: frozenset[int] = frozenset()
    group_sizes: frozenset[int] = frozenset()
    blocks: tuple[tuple[int, int], ...] = ()
    symmetric: bool | None = None
    zero_offset: int = 0
    row_packed: bool = False
    mode: str = "affine"


@dataclass(frozen=True)
class Method:
    """A method of quantization, as config.json describes it.

    Attributes:
        name: as of `quant_method`.
        settings: of all modules.
        overrides: settings of single modules, by the name of the module in the configuration.
        excluded: names of modules, or patterns behind `re:`, that are not quantized.

    """

    name: str
    settings: Settings
    overrides: Mapping[str, Settings] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()

    def of(self, module: str) -> Settings:
        """Return the settings of a module, by its name as it is stored."""
        return self.overrides.get(module, self.settings)

    def excludes(self, module: str) -> str:
        """Return the entry of the configuration that excludes a module, "" if there is none."""
        return next((entry for entry in self.excluded if _matches(entry, module)), "")


def _matches(entry: str, module: str) -> bool:
    """Tell whether an entry names a module: by regular expression, by wildcard, or by a run of whole segments."""
    if entry.startswith("re:"):
        try:
            return re.match(entry[3:], module) is not None
        except re.error:
            return False
    if "*" in entry:
        return re.fullmatch(re.escape(entry).replace(r"\*", ".*"), module) is not None
    return f".{entry}." in f".{module}."
