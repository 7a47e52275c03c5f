"""The parameters of the context that several sequences share."""

from __future__ import annotations

from dataclasses import replace

from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth, depth_limit


def context_of(spec: ContextSpec, parallel: int, draft: Depth, *, separate: bool = False) -> ContextSpec:
    """Return the context that several sequences share, from that of one of them."""
    depth = depth_limit(draft)
    # A step is one call, of which llama.cpp splits off less than it can roll back, or ends the process.
    least = max(parallel * (1 + depth), 2 + depth if depth else 1)
    return replace(
        spec,
        n_ctx=spec.n_ctx * parallel,
        n_batch=max(spec.n_batch, least),
        n_seq=parallel,
        separate=separate,
        n_rs_seq=depth,
        n_outputs=parallel * (1 + depth),
    )
