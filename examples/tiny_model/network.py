"""The network that is trained: transformers' own Qwen3.5 classes, and the MTP head that transformers leaves out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import make_checkpoint
import torch
import transformers
from make_checkpoint import Spec, VisionSpec
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer, Qwen3_5RMSNorm

# Rows of 256 weights, so that every K-quant applies. Twice as many value heads as key heads: their order counts.
SPEC = Spec(
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    tie_word_embeddings=True,
    vision=VisionSpec(3, 128, 256, 2, num_position_embeddings=256),
    head_dim=64,
    linear_key_head_dim=64,
    linear_value_head_dim=64,
    ranks=8159,
    max_position_embeddings=4096,
    mrope_section=(3, 3, 2),
)
# Wider than a super-block, and untied: for what the small one cannot show. Its vision encoder is never trained.
WIDE = replace(
    SPEC,
    hidden_size=512,
    intermediate_size=1024,
    num_hidden_layers=4,
    num_attention_heads=8,
    linear_num_key_heads=4,
    linear_num_value_heads=8,
    tie_word_embeddings=False,
    vision=VisionSpec(1, 64, 128, 1, num_position_embeddings=16),
)


class MtpHead(nn.Module):
    """The MTP head: it reads token p+1 and the main model's hidden state of p, and predicts token p+2.

    Its parameters are named as the published `mtp.*`; the embedding and the output matrix are the main model's.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.fc = nn.Linear(2 * size, size, bias=False)
        self.pre_fc_norm_embedding = Qwen3_5RMSNorm(size, eps)
        self.pre_fc_norm_hidden = Qwen3_5RMSNorm(size, eps)
        self.layers = nn.ModuleList([Qwen3_5DecoderLayer(config, config.layer_types.index("full_attention"))])
        self.norm = Qwen3_5RMSNorm(size, eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)

    def forward(self, embedded: torch.Tensor, hidden: torch.Tensor, rotary: Any) -> torch.Tensor:
        """Return what the output matrix takes, (batch, n, hidden).

        Args:
            embedded: of the tokens p+1, (batch, n, hidden).
            hidden: the main model's last hidden states of p, after its norm, (batch, n, hidden).
            rotary: cosines and sines of the positions p+1.

        """
        x = self.fc(torch.cat([self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden)], -1))
        x = self.layers[0](x, position_embeddings=rotary, attention_mask=None)
        return self.norm(x)


class Network(nn.Module):
    """The whole model: `main` is transformers', `mtp` the extra head, `probe` only helps to train the vision encoder.

    The probe classifies every image token by the colour, shape and place that it shows. It is not saved with the
    checkpoint.
    """

    def __init__(self, spec: Spec, probe_classes: int) -> None:
        super().__init__()
        options = make_checkpoint.config_json(spec)
        del options["architectures"]
        config = transformers.Qwen3_5Config(**options)
        config._attn_implementation = "sdpa"
        self.main = transformers.Qwen3_5ForConditionalGeneration(config).float()  # it came as the published BF16
        self.mtp = MtpHead(config.text_config).float()
        self.probe = nn.Linear(spec.hidden_size, probe_classes)
        self.spec = spec
        with torch.no_grad():
            for layer in self.main.model.language_model.layers:
                if hasattr(layer, "linear_attn"):  # the spread that Gated DeltaNet is usually started with
                    heads = layer.linear_attn.num_v_heads
                    step = torch.exp(torch.linspace(-6.9, -2.3, heads))
                    layer.linear_attn.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
                    layer.linear_attn.A_log.copy_(torch.log(torch.linspace(1, 16, heads)))

    def hidden_states(self, ids: torch.Tensor, **media: Any) -> torch.Tensor:
        """Return the last hidden states after the norm, (batch, n, hidden), of token ids (batch, n)."""
        return self.main.model(input_ids=ids, use_cache=False, **media).last_hidden_state

    def drafts(self, ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Return the MTP head's states, (batch, n - 1, hidden): the one at p predicts token p+2. For text only."""
        text = self.main.model.language_model
        embedded = text.embed_tokens(ids[:, 1:])
        positions = torch.arange(1, ids.shape[1], device=ids.device)[None, None].expand(3, 1, -1)
        return self.mtp(embedded, hidden[:, :-1], text.rotary_emb(embedded, positions))

    @property
    def output(self) -> torch.Tensor:
        """The output matrix, (vocabulary, hidden); it may be the embedding."""
        return self.main.lm_head.weight


def save_weights(network: Network, path: Path) -> None:
    """Write the weights as published: BF16, but for A_log and the gated norm, which are F32; `mtp.*` included."""
    state = dict(network.main.state_dict())
    state |= {f"mtp.{k}": v for k, v in network.mtp.state_dict().items()}
    kinds = {
        t.key: torch.float32 if t.dtype == "F32" else torch.bfloat16 for t in make_checkpoint.tensors(network.spec)
    }
    save_file({k: state[k].detach().to(kind).contiguous() for k, kind in kinds.items()}, path, {"format": "pt"})


def load(directory: Path, spec: Spec = SPEC) -> Network:
    """Read a checkpoint that `save_weights` wrote, in float32, for evaluation on a CPU."""
    network = Network(spec, 1).eval()
    weights = {k: v.float() for k, v in load_file(directory / "model.safetensors").items()}
    mtp = {k.removeprefix("mtp."): v for k, v in weights.items() if k.startswith("mtp.")}
    network.mtp.load_state_dict(mtp)
    main = {k: v for k, v in weights.items() if not k.startswith("mtp.")}
    if spec.tie_word_embeddings:
        main["lm_head.weight"] = main["model.language_model.embed_tokens.weight"]
    network.main.load_state_dict(main)
    return network
