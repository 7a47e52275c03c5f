"""Parity of a GGUF with its checkpoint: logits, drafts and image embeddings against transformers in float32.

transformers drops the MTP head; it is computed here from the published tensors: for each position p, the normed
embedding of token p+1 and the normed hidden state of p are projected and evaluated by one full-attention layer.

Source: graph_mtp in llama.cpp src/models/qwen35.cpp.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES

from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.source_tensors.parts import Parts
from qwen35_gguf.errors import MissingDependencyError, ModelError, Qwen35Error
from qwen35_gguf.evaluation.oracle import Oracle, load_oracle
from qwen35_gguf.evaluation.texts.packaged import EVALUATION
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.quant.divergence import Accumulator, log_softmax
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from qwen35_gguf.runtime.media.image import from_pixels
from qwen35_gguf.runtime.media.vision_encoder import VisionEncoder
from qwen35_gguf.runtime.model_files import find_mmproj, read_model
from qwen35_gguf.runtime.planning import memory
from qwen35_gguf.runtime.planning.available_memory import available_bytes

TOKENS = 256
SIZES = ((128, 128), (256, 96))
# By bits per weight of the coarsest matrix: the largest divergence, in nats, that quantization explains. A misplaced
# head or a missing +1 costs whole nats.
LIMITS = ((2.7, 2.0), (3.6, 0.8), (4.6, 0.3), (5.6, 0.12), (6.7, 0.05), (9.0, 0.02), (17.0, 0.01), (33.0, 1e-6))
LOWEST_COSINE = 0.99
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Parity:
    """One comparison of outputs with the oracle's: which output, the figures, and whether they are within the limit."""

    output: str
    figures: str
    passed: bool


def oracle_installed() -> bool:
    """Whether transformers and torch are installed."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def check_oracle() -> None:
    """Refuse a comparison that needs what is not installed.

    Raises:
        MissingDependencyError: transformers or torch is not installed.

    """
    if not oracle_installed():
        raise MissingDependencyError(
            "transformers and torch are needed for this; install them: pip install transformers torch"
        )


def parts_needed(file: Path) -> Parts:
    """Tell which parts of a checkpoint a comparison with a text model's file needs.

    Raises:
        ModelError: the file is missing, damaged, or not a text model of Qwen3.5.

    """
    return Parts(mtp=memory.has_mtp(read_model(file)), vision=any(file.parent.glob("mmproj-*.gguf")))


def compare_with_checkpoint(file: Path, checkpoint: Path, *, threads: int = 1) -> Iterator[Parity]:
    """Compare a text model, and the vision encoder beside it if there is one, with the checkpoint.

    Raises:
        MissingDependencyError: transformers or torch is not installed.
        ModelError: the file cannot be loaded, or memory is too small for the checkpoint in float32.

    """
    check_oracle()
    header = read_model(file)
    weights = sum(int(np.prod(t.shape)) for t in header.tensors)
    needed, there = FLOAT32_BYTES * weights, available_bytes()
    if needed > there:
        raise ModelError(
            f"{checkpoint}: needs {needed / 1e9:.1f} GB in float32, and {there / 1e9:.1f} GB are free; use --no-parity"
        )
    oracle = load_oracle(open_checkpoint(checkpoint, parts_needed(file)))
    limit = _limit(header)
    mtp = memory.has_mtp(header)
    with Model(file, ModelSpec(mtp=mtp)) as loaded:
        ids = splitter(None, EVALUATION)(loaded)[:TOKENS]
        wanted, drafts = _reference(oracle, ids)
        spec = ContextSpec(TOKENS, n_batch=TOKENS, n_threads=threads, kv_type="f32", n_outputs=TOKENS)
        with Context(loaded, spec, hidden=mtp) as main:
            main.evaluate(ids, 0, outputs=len(ids))
            yield _compared("logits", wanted, main.last_logits(len(ids)), limit)
            if drafts is not None:
                hidden = main.hidden(len(ids)).copy()
                head = Context(loaded, spec, mtp_of=main)
                try:
                    head.evaluate(ids[1:], 1, outputs=len(ids) - 1, embd=hidden[:-1])
                    yield _compared("MTP drafts", drafts, head.last_logits(len(ids) - 1), limit)
                finally:
                    head.close()
        if not oracle.vision:
            return
        try:
            mmproj = find_mmproj(file, loaded.n_embd)
        except Qwen35Error:
            return
        with VisionEncoder(mmproj, loaded, n_threads=threads) as vision:
            yield _embeddings(oracle.model, vision, mmproj)


def _limit(header: GgufHeader) -> float:
    coarsest = min(
        8 * GGML_QUANT_SIZES[t.type][1] / GGML_QUANT_SIZES[t.type][0] for t in header.tensors if len(t.shape) > 1
    )
    return next(limit for bits, limit in LIMITS if coarsest <= bits)


def _compared(what: str, wanted: npt.NDArray[np.float32], found: npt.NDArray[np.float32], limit: float) -> Parity:
    both = Accumulator()
    both.add(log_softmax(wanted), np.ascontiguousarray(found), np.zeros(len(wanted), np.int64))
    figures = both.figures()
    report = (
        f"mean KL divergence {figures.mean.value:.2e} (limit {limit:g}), same top token "
        f"{100 * figures.same_top.value:.1f} % of {len(wanted)}"
    )
    return Parity(what, report, figures.mean.value <= limit)


def _reference(oracle: Oracle, ids: list[int]) -> tuple[Any, Any]:
    """Return the logits of all positions, and those of the drafts from token 2, or None."""
    import torch

    with torch.no_grad():
        row = torch.tensor([ids])
        logits = oracle.model(input_ids=row).logits[0].numpy()
        return logits, _drafts(oracle, row) if oracle.mtp else None


def _drafts(oracle: Oracle, row: Any) -> Any:
    import torch

    weights = oracle.mtp
    text = oracle.model.config.get_text_config()
    main = getattr(oracle.model.model, "language_model", oracle.model.model)

    def norm(x: Any, name: str) -> Any:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + text.rms_norm_eps) * (1 + weights[f"{name}.weight"])

    layer = copy.deepcopy(main.layers[text.layer_types.index("full_attention")])
    prefix = "layers.0."
    layer.load_state_dict({name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)})
    hidden = main(input_ids=row).last_hidden_state
    embedded = norm(main.embed_tokens(row[:, 1:]), "pre_fc_norm_embedding")
    x = torch.cat([embedded, norm(hidden[:, :-1], "pre_fc_norm_hidden")], -1) @ weights["fc.weight"].T
    positions = torch.arange(1, x.shape[1] + 1)[None]
    mask = torch.full((x.shape[1],) * 2, -torch.inf).triu(1)[None, None]
    rotary = main.rotary_emb(x, positions[None].expand(3, -1, -1))
    x = layer(x, position_embeddings=rotary, attention_mask=mask, position_ids=positions)
    return oracle.model.lm_head(norm(x, "norm"))[0].numpy()


def _embeddings(oracle: Any, vision: VisionEncoder, mmproj: Path) -> Parity:
    """Embed images whose sizes need no resizing."""
    import torch

    config = oracle.config.vision_config
    patch, merge, frames = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    lowest = 1.0
    for number, (height, width) in enumerate(SIZES):
        r = np.random.default_rng(number)
        coarse = r.integers(0, 256, (height // 32, width // 32, 3))
        image = np.ascontiguousarray(np.kron(coarse, np.ones((32, 32, 1))).astype(np.uint8))
        rows, columns = height // patch, width // patch
        pixels = (image.astype(np.float32) / 255 - 0.5) / 0.5
        split = pixels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
        patches = split.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3, 1, patch, patch)
        still = np.repeat(patches, frames, axis=2).reshape(rows * columns, -1)
        with torch.no_grad():
            grid = torch.tensor([[1, rows, columns]])
            wanted = oracle.model.visual(torch.from_numpy(still), grid_thw=grid).pooler_output.numpy()
        found = vision.embed(from_pixels(image)).values
        if found.shape != wanted.shape:
            return Parity("image embeddings", f"{mmproj.name}: {found.shape} instead of {wanted.shape}", False)
        norms = np.linalg.norm(wanted, axis=-1) * np.linalg.norm(found, axis=-1)
        lowest = min(lowest, float(((wanted * found).sum(-1) / norms).min()))
    report = f"{mmproj.name}: lowest cosine {lowest:.6f} (limit {LOWEST_COSINE})"
    return Parity("image embeddings", report, lowest >= LOWEST_COSINE)
