"""A short float32 reference of the multi-token-prediction head, which transformers drops.

For each position p: norm the embedding of token p+1 and the main model's final hidden state of p, concatenate them in
this order, project to the hidden size, run one full-attention layer at position p+1, norm, and apply the output matrix.
Source: the published tensors' shapes, and graph_mtp in llama.cpp src/models/qwen35.cpp.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm with a weight stored around 0."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (1 + weight.float())


@torch.no_grad()
def draft_logits(source: Path, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the main model's hidden states (n, hidden) and the draft logits (n - 1, vocab) for tokens 2 .. n."""
    config = transformers.AutoConfig.from_pretrained(source)
    model_class: Any = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    main, text = model.model.language_model, config.text_config
    weights = {k.removeprefix("mtp."): w for k, w in load_file(source / "model.safetensors").items() if k[:4] == "mtp."}

    full = text.layer_types.index("full_attention")
    layer = copy.deepcopy(main.layers[full])
    block = {k.removeprefix("layers.0."): w.float() for k, w in weights.items() if k.startswith("layers.0.")}
    layer.load_state_dict(block)

    ids = torch.tensor([tokens])
    hidden = main(input_ids=ids).last_hidden_state
    embedded = rms(main.embed_tokens(ids[:, 1:]), weights["pre_fc_norm_embedding.weight"], text.rms_norm_eps)
    before = rms(hidden[:, :-1], weights["pre_fc_norm_hidden.weight"], text.rms_norm_eps)
    x = torch.cat([embedded, before], -1) @ weights["fc.weight"].float().T

    n = x.shape[1]
    positions = torch.arange(1, n + 1)[None]
    mask = torch.full((n, n), -torch.inf).triu(1)[None, None]
    rotary = main.rotary_emb(x, positions[None].expand(3, -1, -1))
    x = layer(x, position_embeddings=rotary, attention_mask=mask, position_ids=positions)
    x = rms(x, weights["norm.weight"], text.rms_norm_eps)
    return hidden[0], model.lm_head(x)[0]
