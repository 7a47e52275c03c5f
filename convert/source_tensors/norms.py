"""Whether RMSNorm weights have the +1 already: Qwen3.5 stores w and multiplies by 1 + w, an MLX export stores 1 + w.

MLX moves the channels of a convolution last and adds the 1 in one step (mlx-lm, models/qwen3_5.py, sanitize). An MTP
head that was put beside such an export later may have either form, so the values decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qwen35_gguf.convert.source_tensors.parts import MTP, TEXT, TITLE, Part

Array = np.ndarray[Any, np.dtype[Any]]

# The weights to which the rules of the tensor map add 1.
SHIFTED = re.compile(r"(^|\.)(norm|(q|k|input_layer|post_attention_layer)norm|[qk]_norm|pre_fc_norm_\w+)\.weight$")
GATED = re.compile(r"linear_attn\.norm\.weight$")
# A norm that multiplies by a negative number is rare; of weights around 0 about half are negative.
FEW = 0.05
# Published weights are around 0; where nearly all are above this, 1 was probably added.
ABOVE = 0.5
AROUND_ONE = (
    "the RMSNorm weights are around 1, and those of Qwen3.5 around 0: some tool has probably added the 1 that is added "
    "here, too; if the answers make no sense, convert the checkpoint that this one was made of"
)


def is_shifted_norm(name: str) -> bool:
    """Tell whether the tensor with this canonical name is one to which 1 is added."""
    return SHIFTED.search(name) is not None and not GATED.search(name) and not name.startswith("visual.")


class Form(NamedTuple):
    """Whether the RMSNorm weights of the main model and the MTP head have the +1, and what to tell the user."""

    text_shifted: bool = False
    mtp_shifted: bool = False
    notes: tuple[str, ...] = ()


def sniff(held: Sequence[tuple[Part, Array]], moved: int) -> Form:
    """Find out in which form the weights are.

    Args:
        held: the part and the values of each RMSNorm weight to which 1 is added.
        moved: number of convolutions whose channels are last: more than 0 in an MLX export.

    """
    weights = {part: [array for of, array in held if of == part] for part in (TEXT, MTP)}
    if not moved:
        around_one = weights[TEXT] and _share_below(weights[TEXT], ABOVE) < FEW
        return Form(notes=(AROUND_ONE,) if around_one else ())
    shifted = {part: _share_below(arrays, 0) < FEW for part, arrays in weights.items()}
    forms = [
        f"those of the {TITLE[part]} have {'' if shifted[part] else 'not '}the +1 applied already"
        for part, arrays in weights.items()
        if arrays
    ]
    note = f"MLX export: {moved} conv1d tensors are stored channels last; by the values of the RMSNorm weights, "
    return Form(shifted[TEXT], shifted[MTP], (note + " and ".join(forms),))


def _share_below(arrays: Sequence[Array], limit: float) -> float:
    below = sum(int(np.count_nonzero(array.astype(np.float32) < limit)) for array in arrays)
    return below / max(1, sum(array.size for array in arrays))
