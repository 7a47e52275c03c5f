"""Train the tiny Qwen3.5 checkpoint that stands in for a real one: text, think blocks, MTP head, images, clips.

Everything is generated from a seed (see tiny_model/), on a CPU in about an hour. Interrupted, it resumes from its last
state with --resume and ends at the same weights.

    python examples/train_tiny.py --out examples/tiny-qwen3.5
    python examples/train_tiny.py --course wide --device cuda --out models/wide   # wider than a super-block

The wide one has 22 million parameters: minutes on a large GPU, hours on a CPU.

What it leaves out: real knowledge of the world. The model knows the tables in tiny_model/facts.py.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # its own modules and make_checkpoint.py stand beside it

import click
import make_checkpoint
import tokenizers
import torch
from tiny_model import batches, corpus, corpus_scenes, evaluation, library_text, network
from tiny_model.batches import Batch
from tiny_model.network import Network

CONTRAST = 256  # unused tokens in each step's softmax, drawn at random
MTP_WEIGHT, PROBE_WEIGHT = 0.3, 0.3
EMPTY_WEIGHT = 0.1  # of an image token that shows nothing, in the probe's loss; most show nothing
WARMUP = 80
WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Stage:
    """One course of training: what a step holds, and where the learning rate begins.

    Attributes:
        name: shown.
        steps: how many.
        peak: learning rate after the warm-up; it ends at 2 % of it.
        rows: of text, `length` tokens each.
        scenes: images.
        clips: pairs of frames.
        vision_only: the vision encoder learns to classify what its tokens show; nothing else is trained.
        prose: share of the documents that are prose.

    """

    name: str
    steps: int
    peak: float
    rows: int
    scenes: int
    clips: int
    length: int = 192
    vision_only: bool = False
    prose: float = 0.08

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine."""
        if step < WARMUP:
            return self.peak * (step + 1) / WARMUP
        done = (step - WARMUP) / max(1, self.steps - WARMUP)
        return self.peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


# Through the language model alone a small vision encoder learns very slowly: it is trained apart, then both jointly.
# The names are part of the seed of each step.
STAGES = (
    Stage("text", 3200, 2e-3, rows=6, scenes=4, clips=3),
    Stage("tower", 1500, 2e-3, rows=0, scenes=20, clips=20, vision_only=True),
    Stage("scenes", 1000, 1e-3, rows=2, scenes=10, clips=10),
)


@dataclass(frozen=True)
class Course:
    """What a model is, and how it is trained.

    Attributes:
        spec: its dimensions.
        stages: of the training, one after the other.
        code: functions of the standard library are among the prose.
        documents: of each of the texts that are written beside the checkpoint.

    """

    spec: make_checkpoint.Spec
    stages: tuple[Stage, ...]
    code: bool
    documents: int

    def prose(self, *, held_out: bool) -> list[str]:
        """Return the paragraphs that it is trained on, or never."""
        code = library_text.functions(held_out=held_out) if self.code else ()
        return corpus.prose(held_out=held_out) + list(code)


COURSES = {
    "tiny": Course(network.SPEC, STAGES, code=False, documents=400),
    "wide": Course(
        network.WIDE, (Stage("long", 2000, 2e-3, rows=8, scenes=0, clips=0, length=384, prose=0.4),), True, 1200
    ),
}


def step_batches(
    stage: Stage, seed: int, step: int, spec: Any, tokenizer: tokenizers.Tokenizer, prose: list[str]
) -> list[Batch]:
    """Make the batches of one step; they depend on the seed and the step only, so that a resumed run is the same."""
    r = Random(f"{seed} {stage.name} {step}")
    made = [batches.text_batch(r, tokenizer, prose, stage.rows, stage.length, stage.prose)] if stage.rows else []
    if stage.scenes:
        scenes = [corpus_scenes.image(r) for _ in range(stage.scenes)]
        made.append(batches.scene_batch(r, spec, tokenizer, scenes))
    if stage.clips:
        scenes = [corpus_scenes.clip(r) for _ in range(stage.clips)]
        made.append(batches.scene_batch(r, spec, tokenizer, scenes))
    return made


def used_tokens(tokenizer: tokenizers.Tokenizer, prose: list[str], documents: int = 3000) -> torch.Tensor:
    """Find the tokens that occur in the corpus, sorted, as a 1-D int64 tensor."""
    r = Random(12345)
    found = {i for text in prose for i in tokenizer.encode(text, add_special_tokens=False).ids}
    for _ in range(documents):
        found.update(batches.encode(tokenizer, corpus.document(r, prose))[0])
        found.update(batches.encode(tokenizer, corpus_scenes.rendered(r, corpus_scenes.clip(r)))[0])
    return torch.tensor(sorted(found))


def weighted_loss(
    states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """Cross entropy over the candidate tokens only, which are far fewer than the vocabulary, summed by weight.

    Args:
        states: (..., hidden).
        targets: (...), the token that each state must predict.
        weights: (...), how much each counts; 0 leaves it out.
        output: (vocabulary, hidden).
        candidates: sorted token ids that hold every target.

    """
    wanted = weights > 0
    logits = states[wanted] @ output[candidates].T
    labels = torch.searchsorted(candidates, targets[wanted])
    losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    return (losses * weights[wanted]).sum()


def batch_losses(
    net: Network, batch: Batch, known: torch.Tensor, generator: torch.Generator
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the mean losses of a batch: `text`, `image` or `clip`, then `mtp` (text only) or `probe`."""
    drawn = torch.randint(net.spec.vocab_size, (CONTRAST,), generator=generator)
    candidates = torch.cat([known, drawn.to(known.device), batch.ids[batch.weights > 0].flatten()]).unique()
    ids, weights = batch.ids, batch.weights
    if not batch.media:
        hidden = net.hidden_states(ids)
        yield "text", weighted_loss(hidden[:, :-1], ids[:, 1:], weights[:, 1:], net.output, candidates) / weights.sum()
        states, late = net.drafts(ids, hidden)[:, :-1], weights[:, 2:]
        yield "mtp", weighted_loss(states, ids[:, 2:], late, net.output, candidates) / late.sum()
        return
    seen: list[torch.Tensor] = []
    hook = net.main.model.visual.merger.register_forward_hook(lambda _module, _inputs, result: seen.append(result))
    hidden = net.hidden_states(ids, **batch.media)
    hook.remove()
    kind = "clip" if "video_grid_thw" in batch.media else "image"
    yield kind, weighted_loss(hidden[:, :-1], ids[:, 1:], weights[:, 1:], net.output, candidates) / weights.sum()
    if batch.probes is not None:
        yield "probe", probe_loss(net, seen[0], batch.probes)


def probe_loss(net: Network, states: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Cross entropy of what the image tokens show; states are (tokens, hidden), classes (tokens,)."""
    weights = torch.ones(net.probe.out_features, device=states.device)
    weights[0] = EMPTY_WEIGHT
    return torch.nn.functional.cross_entropy(net.probe(states), classes, weights)


def vision_losses(net: Network, batch: Batch) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the probe's loss, and its accuracy where there is something to see."""
    pixels = batch.media.get("pixel_values", batch.media.get("pixel_values_videos"))
    grid = batch.media.get("image_grid_thw", batch.media.get("video_grid_thw"))
    seen: list[torch.Tensor] = []
    visual = net.main.model.visual
    hook = visual.merger.register_forward_hook(lambda _module, _inputs, result: seen.append(result))
    visual(pixels, grid_thw=grid)
    hook.remove()
    yield "probe", probe_loss(net, seen[0], batch.probes)
    shown = batch.probes > 0
    right = net.probe(seen[0].detach()).argmax(-1) == batch.probes
    yield "right", right[shown].float().mean().detach()


def optimizer_for(net: Network, stage: Stage) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    modules = (net.main.model.visual, net.probe) if stage.vision_only else (net,)
    trained = [p for module in modules for p in module.parameters()]
    matrices = [p for p in trained if p.ndim >= 2]
    others = [p for p in trained if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=stage.peak, betas=(0.9, 0.97), eps=1e-8, fused=True)


def train(
    net: Network,
    stages: Sequence[Stage],
    tokenizer: tokenizers.Tokenizer,
    *,
    prose: list[str] | None = None,
    seed: int = 0,
    state: Path | None = None,
    resume: bool = False,
    seconds: float = math.inf,
    report: Callable[[str], None] = print,
    every: int = 50,
) -> bool:
    """Train `net` in place; False when time ran out before the end.

    `state` is where the weights and the optimizer are saved every few minutes and at the end of a stage.
    """
    prose = corpus.prose(held_out=False) if prose is None else prose
    device = net.output.device
    known, begun = used_tokens(tokenizer, prose).to(device), time.monotonic()
    saved: dict[str, Any] = {"stage": 0, "step": 0}
    if resume and state is not None and state.exists():
        saved = torch.load(state, weights_only=True, map_location=device)
        net.load_state_dict(saved["net"])
    net.train()
    for number in range(saved["stage"], len(stages)):
        stage, start = stages[number], saved["step"]
        optimizer = optimizer_for(net, stage)
        if start:
            optimizer.load_state_dict(saved["optimizer"])
        sums: dict[str, float] = {}
        stage_begun = saved_at = time.monotonic()
        for step in range(start, stage.steps):
            if time.monotonic() - begun > seconds:
                save(state, net, optimizer, number, step)
                return False
            for group in optimizer.param_groups:
                group["lr"] = stage.rate(step)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            for batch in step_batches(stage, seed, step, net.spec, tokenizer, prose):
                batch = batches.on_device(batch, device)
                found = vision_losses(net, batch) if stage.vision_only else batch_losses(net, batch, known, generator)
                total = torch.zeros((), device=device)
                for name, loss in found:
                    sums[name] = sums.get(name, 0.0) + loss.item() / (1 + (name in ("probe", "right")))
                    if loss.requires_grad:
                        total = total + {"mtp": MTP_WEIGHT, "probe": PROBE_WEIGHT}.get(name, 1.0) * loss
                total.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % every == 0:
                means = "  ".join(f"{name} {value / every:.3f}" for name, value in sums.items())
                pace = (time.monotonic() - stage_begun) / (step + 1 - start)
                report(f"{stage.name} {step + 1:6} / {stage.steps}  {means}  {pace:.2f} s/step")
                sums = {}
            if time.monotonic() - saved_at > 180:
                save(state, net, optimizer, number, step + 1)
                saved_at = time.monotonic()
        saved = {"step": 0}
        save(state, net, optimizer, number + 1, 0)
    return True


def save(state: Path | None, net: Network, optimizer: torch.optim.Optimizer, stage: int, step: int) -> None:
    """Write the state: whole or not at all."""
    if state is None:
        return
    state.parent.mkdir(parents=True, exist_ok=True)
    part = state.with_suffix(".part")
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "stage": stage, "step": step}, part)
    part.replace(state)


def write_checkpoint(net: Network, directory: Path) -> None:
    """Write the whole checkpoint: configuration, tokenizer and template by make_checkpoint, and the trained weights."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in make_checkpoint.side_files(net.spec).items():
        (directory / name).write_text(content, encoding="utf-8")
    network.save_weights(net, directory / "model.safetensors")


def write_texts(directory: Path, course: Course) -> None:
    """Write calibration.txt, of what was trained on, and evaluation.txt, of what was not: neither has the other's."""
    r, prose, share = Random("calibration"), course.prose(held_out=False), course.stages[0].prose
    texts = {
        "calibration.txt": [corpus.document(r, prose, share) for _ in range(course.documents)],
        "evaluation.txt": evaluation.held_out_documents(course.documents, course.prose(held_out=True), share),
    }
    for name, made in texts.items():
        joined = "\n".join("".join(piece.text for piece in document) for document in made)
        (directory / name).write_text(joined + "\n", encoding="utf-8")


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The checkpoint's folder.")
@click.option("--state", type=click.Path(path_type=Path), help="Where the state is kept; by default OUT.state.pt.")
@click.option("--course", type=click.Choice(list(COURSES)), default="tiny", show_default=True, help="Which model.")
@click.option("--scale", type=click.FloatRange(0, min_open=True), default=1.0, help="Of the number of steps.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=math.inf, help="Stop then, to be resumed.")
@click.option("--resume", is_flag=True, help="Resume from the saved state.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Of torch.")
@click.option("--threads", type=click.IntRange(1), help="By default torch's own number.")
def main(
    out: Path, state: Path | None, course: str, scale: float, minutes: float, resume: bool, seed: int,
    device: str, threads: int | None,
) -> None:  # fmt: skip
    """Command line of `train`, with an evaluation at the end."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    chosen = COURSES[course]
    stages = [replace(stage, steps=max(1, round(stage.steps * scale))) for stage in chosen.stages]
    tokenizer = tokenizers.Tokenizer.from_str(
        json.dumps(make_checkpoint.tokenizer_json(make_checkpoint.load_ranks(chosen.spec.ranks)))
    )
    net = Network(chosen.spec, batches.probe_classes()).to(device)
    begun = time.monotonic()
    state = state or out.with_name(out.name + ".state.pt")

    def report(line: str) -> None:
        print(line, flush=True)

    done = train(
        net, stages, tokenizer, prose=chosen.prose(held_out=False), seed=seed, state=state, resume=resume,
        seconds=60 * minutes, report=report,
    )  # fmt: skip
    write_checkpoint(net.cpu(), out)
    write_texts(out, chosen)
    if not done:
        report("not done; continue with --resume")
        return
    loaded = network.load(out, chosen.spec)
    figures = (
        evaluation.measure(loaded, tokenizer)
        if any(stage.scenes for stage in stages)
        else evaluation.text_figures(loaded, tokenizer, 200)
    )
    parameters = sum(t.numel() for part in (net.main, net.mtp) for t in part.parameters())
    figures |= {"steps": {stage.name: stage.steps for stage in stages}, "seed": seed, "parameters": parameters}
    (out / "training.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    report(json.dumps(figures, indent=2))
    report(f"{out}: {(time.monotonic() - begun) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
