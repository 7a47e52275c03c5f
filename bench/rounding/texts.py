"""Rounding by second moments on held-out text of three kinds, at depth, on drafts and on images.

.venv/bin/python bench/rounding/rounding.py --checkpoint CHECKPOINT --kinds block,sequential --folder FOLDER
.venv/bin/python bench/rounding/texts.py CHECKPOINT FOLDER [--presets Q2_K,Q4_K_M] [--kinds importance,block,sequential]
    [--parts texts,drafts,images]

The first command makes the files, the second evaluates them.

CHECKPOINT was trained by examples/train_tiny.py. Chats are made up from a seed that training never uses, prose and
code are the paragraphs and functions that it never saw. At depth, the first 4,096-token chunks of all three are
evaluated and their second halves scored. Drafts are those of the MTP head at depth 1, in greedy answers to held-out
questions. Images show what training never showed; an answer is right if it is so to the letter.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from tiny_model import corpus, corpus_scenes, library_text  # noqa: E402

from qwen35_gguf.convert import hf_to_gguf  # noqa: E402
from qwen35_gguf.evaluation import kl_divergence  # noqa: E402
from qwen35_gguf.evaluation.texts.tokenized import splitter  # noqa: E402
from qwen35_gguf.runtime import Qwen35  # noqa: E402

SEED = "held out, by kind"
CHUNK, CHUNKS = 256, 40
DEEP, DEEP_CHUNKS = 4096, 3
CHATS, LENGTH = 1200, 200_000  # of a kind: chats, characters of prose and of code
QUESTIONS, IMAGES = 60, 60
END = "<|endoftext|>\n"


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--presets", default="Q2_K,Q4_K_M")
    parser.add_argument("--kinds", default="importance,block,sequential")
    parser.add_argument("--parts", default="texts,drafts,images")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    kinds, parts = options.kinds.split(","), options.parts.split(",")
    rows = [(quant, kind, made(options.folder, quant, kind)) for quant in options.presets.split(",") for kind in kinds]
    with tempfile.TemporaryDirectory() as scratch:
        if "texts" in parts:
            print_texts(options.checkpoint, rows, Path(scratch), options.threads)
        if "drafts" in parts:
            print("| File | | drafts accepted |\n|---|---|--:|")
            reference = hf_to_gguf.convert(options.checkpoint, "BF16", Path(scratch), vision=False)[0]
            for quant, kind, file in (("BF16", "", reference), *rows):
                print(f"| {quant} | {kind} | {accepted(file, options.threads):.1%} |", flush=True)
        if "images" in parts:
            print("| File | | images described right |\n|---|---|--:|")
            encoder = Path(scratch, "vision")
            reference, mmproj = hf_to_gguf.convert(options.checkpoint, "BF16", encoder)
            for quant, kind, file in (("BF16", "", reference), *rows):
                print(f"| {quant} | {kind} | {described(file, mmproj, options.threads):.0%} |", flush=True)


def made(folder: Path, quant: str, kind: str) -> Path:
    """Find a file that bench/rounding/rounding.py made."""
    (file,) = (folder / "files" / f"{quant}-{kind}").glob("*.gguf")
    return file


def print_texts(checkpoint: Path, rows: Sequence[tuple[str, str, Path]], scratch: Path, threads: int) -> None:
    """Print the mean divergence of each file on each text, and its ratio to the first file of the same preset."""
    reference = hf_to_gguf.convert(checkpoint, "F32", scratch, vision=False)[0]
    bases = {}
    for name, text, chunk, chunks in texts():
        (scratch / f"{name}.txt").write_text(text, encoding="utf-8")
        bases[name] = scratch / f"{name}.base"
        split = splitter(scratch / f"{name}.txt", name)
        kl_divergence.save_reference(reference, split, bases[name], chunk=chunk, chunks=chunks, threads=threads)
    print(f"| File | | {' | '.join(bases)} |\n|---|---|{'--:|' * len(bases)}")
    first: dict[tuple[str, str], float] = {}
    for quant, kind, file in rows:
        cells = []
        for name, base in bases.items():
            value = kl_divergence.evaluate(file, base, threads=threads).mean.value
            alone = first.setdefault((quant, name), value)
            cells.append(f"{value:.5f}" + (f" ({value / alone:.2f})" if value is not alone else ""))
        print(f"| {quant} | {kind} | {' | '.join(cells)} |", flush=True)


def texts() -> Iterator[tuple[str, str, int, int]]:
    """Yield the name of each text, the text, and the length and number of its chunks."""
    r = Random(SEED)
    chats = "\n".join("".join(piece.text for piece in document) for document in _chats(r))
    prose = END.join(r.choices(corpus.prose(held_out=True), k=2000))[:LENGTH]
    code = END.join(library_text.functions(held_out=True))[:LENGTH]
    for name, text in (("chats", chats), ("prose", prose), ("code", code)):
        yield name, text, CHUNK, CHUNKS
    third = 4 * DEEP * DEEP_CHUNKS // 3
    yield "at depth", "\n".join(text[:third] for text in (chats, prose, code)), DEEP, DEEP_CHUNKS


def _chats(r: Random) -> Iterator[corpus.Document]:
    for _ in range(CHATS):
        yield corpus.rendered(corpus.chat(r), thinking=r.random() < 0.5)


def accepted(file: Path, threads: int) -> float:
    """Return the share of the drafts that are accepted in answers to questions of held-out chats."""
    r = Random(SEED)
    questions = [corpus.chat(r)[0].question for _ in range(QUESTIONS)]
    drafted = right = 0
    with Qwen35(file, n_ctx=1024, n_threads=threads, draft=1) as model:
        for question in questions:
            answer = model.chat([{"role": "user", "content": question}], temperature=0, max_tokens=80, thinking=False)
            drafted, right = drafted + answer.timings.drafted, right + answer.timings.accepted
    return right / drafted


def described(file: Path, mmproj: Path, threads: int) -> float:
    """Return the share of the images that are described to the letter."""
    r = Random(SEED)
    scenes = [corpus_scenes.image(r, held_out=True, count=1) for _ in range(IMAGES)]
    right = 0
    with Qwen35(file, mmproj=mmproj, n_ctx=1024, n_threads=threads, draft=0) as model:
        for scene in scenes:
            content: list[dict[str, Any]] = [
                {"type": "image", "image": png(scene.frames[0])},
                {"type": "text", "text": corpus_scenes.DESCRIBE_IMAGE},
            ]
            answer = model.chat([{"role": "user", "content": content}], temperature=0, max_tokens=48, thinking=False)
            right += answer.choices[0].message.content == corpus_scenes.description(scene)
    return right / len(scenes)


def png(pixels: Any) -> bytes:
    """Encode an image, (height, width, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
