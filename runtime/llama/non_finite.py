"""Find where numbers stop being numbers: the first node of the graph with a NaN or an infinity.

Logits that are not finite are noticed when a token is chosen, which costs nothing. What was evaluated is then evaluated
again with a callback that sees every node.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qwen35_gguf.errors import NonFiniteError, Qwen35Error
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.eval_callback import EvalCallback, view
from qwen35_gguf.runtime.llama.model import Model

F32 = 0  # ggml_type
MOST_TOKENS = 4096  # evaluated again
_LAYER = re.compile(r"(?:-|blk\.)(\d+)(?:\.|$)")
_MASK = ("inp_", "attn_inp", "KQ_mask", "leaf_")  # masks have infinities by intention


def non_finite_error(context: Context, items: Sequence[object]) -> NonFiniteError:
    """Return the error for logits that are not finite; it names the layer, if evaluating again shows it.

    Args:
        context: whose logits they are.
        items: what its sequence holds; of images only what is before them is evaluated again.

    """
    tokens: list[int] = []
    for item in items:
        if not isinstance(item, int):
            break
        tokens.append(item)
    try:
        where = first_non_finite(context.model, context, tokens[:MOST_TOKENS])
    except Qwen35Error as error:
        where = f"an unknown layer ({error})"
    return NonFiniteError(
        f"{where}: computes numbers that are not finite; check the weights with `qwen35 lint`, or convert them again"
    )


def first_non_finite(model: Model, like: Context, tokens: Sequence[int]) -> str:
    """Evaluate tokens, and name the first node with a value that is not finite: "layer 3 (ffn_out-3)"."""
    found: list[str] = []

    def look(_kind: str, node: Any) -> None:
        if found or node.type != F32 or not node.data:
            return
        name = node.name.decode(errors="replace")
        if not name.startswith(_MASK) and not np.isfinite(view(node, np.float32)).all():
            found.append(_described(node, name))

    callback = EvalCallback(lambda _kind, _node: True, look)
    spec = replace(like.spec, n_ctx=max(1, len(tokens)), n_seq=1, n_rs_seq=0, n_outputs=1)
    with Context(model, spec, eval_callback=callback) as context:
        for start in range(0, len(tokens), context.n_batch):
            part = tokens[start : start + context.n_batch]
            context.evaluate(part, start, outputs=1)
            if found:
                return found[0]
    return "an unknown layer"


def _described(node: Any, name: str) -> str:
    """Name a node by its layer, which its own name or that of its weights has."""
    weights = [source.contents.name.decode(errors="replace") for source in node.src if source]
    for text in (*weights, name):
        if match := _LAYER.search(text):
            weight = next((one for one in weights if one.endswith((".weight", ".bias"))), "")
            return f"layer {match[1]} ({weight or name})"
    return f"the part outside of the layers ({name})"
