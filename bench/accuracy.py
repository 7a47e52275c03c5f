"""Print how close llama.cpp on our F32 GGUF comes to the oracles: logits, MTP drafts, image embeddings.

.venv/bin/python bench/accuracy.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]

import make_checkpoint  # noqa: E402

from oracles import llama, mtp_reference, vision  # noqa: E402
from qwen35_gguf.convert import hf_to_gguf  # noqa: E402

MODELS = {
    "1 value head per key head": {"value_heads_per_key": 1},
    "2 value heads per key head": {"value_heads_per_key": 2},
    "3 value heads per key head, untied": {"value_heads_per_key": 3, "tied": False},
    "experts": {"moe": True},
}


def main() -> None:
    """Convert each model and compare."""
    tokens = np.random.default_rng(0).integers(0, 2033, 200).tolist()
    images = [vision.image(width, height, 0) for width, height in ((128, 128), (256, 96), (96, 320))]
    with tempfile.TemporaryDirectory() as scratch:
        for name, options in MODELS.items():
            source = make_checkpoint.make_checkpoint(Path(scratch, name), make_checkpoint.build_spec(**options))
            gguf, mmproj = hf_to_gguf.convert(source, "F32", Path(scratch, "out"), mmproj_type="F32", force=True)
            model_class = getattr(transformers, transformers.AutoConfig.from_pretrained(source).architectures[0])
            model = model_class.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
            with torch.no_grad():
                reference = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
            found = llama.logits(gguf, tokens)
            agreement = (found.argmax(-1) == reference.argmax(-1)).mean()
            _, draft = mtp_reference.draft_logits(source, tokens)
            drafted = llama.draft_logits(gguf, tokens)[1]
            print(f"{name}: logits mean KL {llama.mean_kl(reference, found):.1e}, top-1 {agreement:.1%}; ", end="")
            print(f"MTP mean KL {llama.mean_kl(draft.numpy(), drafted):.1e}")
            if "moe" in options:
                continue
            for type_ in ("F32", "BF16"):
                _, mmproj = hf_to_gguf.convert(source, "F32", Path(scratch, "out"), mmproj_type=type_, force=True)
                expected = np.concatenate(vision.reference(source, images))
                got = np.concatenate(vision.embeddings(gguf, mmproj, images))
                cosine = (expected * got).sum(-1) / np.linalg.norm(expected, axis=-1) / np.linalg.norm(got, axis=-1)
                print(f"  vision {type_}: cosine {cosine.min():.6f} at worst")


if __name__ == "__main__":
    main()
