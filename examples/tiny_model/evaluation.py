"""What the trained model can do, on text, images and clips that it never saw: figures for training.json."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import tokenizers
import torch

from tiny_model import batches, corpus, corpus_scenes
from tiny_model.batches import Batch
from tiny_model.corpus_scenes import Scene
from tiny_model.network import Network

HELD_OUT_SEED = "held out"


def held_out_documents(count: int, prose: Sequence[str] = (), share: float = 0.08) -> list[corpus.Document]:
    """Make up documents from a seed that training never uses, with the prose that it never saw."""
    r, prose = Random(HELD_OUT_SEED), prose or corpus.prose(held_out=True)
    return [corpus.document(r, prose, share) for _ in range(count)]


@torch.no_grad()
def text_figures(net: Network, tokenizer: tokenizers.Tokenizer, documents: int) -> dict[str, float]:
    """Return the loss over the tokens that the model must write, in nats per token, and the MTP head's acceptance rate.

    A draft is accepted when it is the main model's own most likely token, as in greedy decoding.
    """
    loss = right = drafted = tokens = 0.0
    for document in held_out_documents(documents):
        ids, weights = batches.encode(tokenizer, document)
        row, written = torch.tensor([ids]), torch.tensor(weights) == 1
        hidden = net.hidden_states(row)
        logits = hidden[0] @ net.output.T
        losses = torch.nn.functional.cross_entropy(logits[:-1], row[0, 1:], reduction="none")
        loss += losses[written[1:]].sum().item()
        tokens += written[1:].sum().item()
        drafts = (net.drafts(row, hidden)[0] @ net.output.T).argmax(-1)[:-1]  # at p: the guess for p + 2
        own = logits[1:-1].argmax(-1)  # at p: the main model's prediction of p + 2 when p + 1 is known
        right += (drafts == own)[written[2:]].sum().item()
        drafted += written[2:].sum().item()
    return {"loss": loss / tokens, "mtp_acceptance": right / drafted}


@torch.no_grad()
def answer(net: Network, tokenizer: tokenizers.Tokenizer, batch_or_ids: Batch | list[int], limit: int = 96) -> str:
    """Continue a prompt greedily until the end of the turn, and return the text, think block and all."""
    stop = net.spec.token_id("<|im_end|>")
    if isinstance(batch_or_ids, Batch):
        ids, media = batch_or_ids.ids, batch_or_ids.media
    else:
        ids, media = torch.tensor([batch_or_ids]), {}
    net.main.model.rope_deltas = None
    made = net.main.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, eos_token_id=stop,
        pad_token_id=stop, **media,
    )  # fmt: skip
    return tokenizer.decode(made[0, ids.shape[1] :].tolist()).removesuffix("<|im_end|>")


def ask(net: Network, tokenizer: tokenizers.Tokenizer, question: str, *, thinking: bool = False) -> str:
    """Answer one question of text."""
    text = corpus.prompt(question, thinking=thinking)
    return answer(net, tokenizer, tokenizer.encode(text, add_special_tokens=False).ids)


def describe(net: Network, tokenizer: tokenizers.Tokenizer, scene: Scene) -> str:
    """Describe an image, or what happens in a clip."""
    clip = scene.moved_to is not None
    question = corpus_scenes.DESCRIBE_CLIP if clip else corpus_scenes.DESCRIBE_IMAGE
    text = corpus.prompt(corpus_scenes.marked(scene) + question, thinking=False)
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
    batch = batches.scene_batch(Random(0), net.spec, tokenizer, [scene])
    image, video = net.spec.token_id("<|image_pad|>"), net.spec.token_id("<|video_pad|>")
    kinds = (ids == image) * 1 + (ids == video) * 2
    return answer(net, tokenizer, Batch(ids, torch.zeros(ids.shape), batch.media | {"mm_token_type_ids": kinds}))


def accuracy(net: Network, tokenizer: tokenizers.Tokenizer, scenes: list[Scene]) -> float:
    """Return the share of the scenes whose description is right to the letter."""
    return sum(describe(net, tokenizer, s) == corpus_scenes.description(s) for s in scenes) / len(scenes)


def measure(net: Network, tokenizer: tokenizers.Tokenizer, documents: int = 200, scenes: int = 100) -> dict[str, Any]:
    """Return all figures: held-out combinations only, and images with one thing and with two apart."""
    r = Random(HELD_OUT_SEED)
    one = [corpus_scenes.image(r, held_out=True, count=1) for _ in range(scenes)]
    two = [corpus_scenes.image(r, held_out=True, count=2) for _ in range(scenes // 2)]
    clips = [corpus_scenes.clip(r, held_out=True) for _ in range(scenes)]
    return {
        **text_figures(net, tokenizer, documents),
        "picture_accuracy": accuracy(net, tokenizer, one),
        "two_things_accuracy": accuracy(net, tokenizer, two),
        "clip_accuracy": accuracy(net, tokenizer, clips),
    }
