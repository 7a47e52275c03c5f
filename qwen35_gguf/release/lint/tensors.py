"""Which tensors a text model needs, and their shapes, so that llama.cpp loads the file and every tensor of it.

Source: llama.cpp src/models/qwen35.cpp and qwen35moe.cpp (load_arch_tensors), src/gguf.cpp (offsets).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from qwen35_gguf.architecture import Architecture
from qwen35_gguf.convert.tensor_map import expected_shapes
from qwen35_gguf.errors import ModelError
from qwen35_gguf.gguf_file.header import contiguous
from qwen35_gguf.json_file import some_of
from qwen35_gguf.release.lint.diagnostic import Diagnostic, Subject

Shape = tuple[int, ...]

BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
AGAIN = "convert the checkpoint again with `qwen35 convert`"
SHOWN = 4  # names in one line
OPTIONAL = re.compile(
    r"output\.weight|rope_freqs\.weight"
    r"|blk\.\d+\.nextn\.(embed_tokens|shared_head_head|shared_head_norm)\.weight"
    r"|blk\.\d+\.ffn_gate_up_exps\.weight|.+\.(scale|input_scale)"
)


def blocks_present(subject: Subject) -> set[int]:
    """Return the numbers of the blocks that have tensors."""
    return {int(found[1]) for name in subject.tensors if (found := BLOCK.fullmatch(name))}


def mtp_only(subject: Subject) -> bool:
    """Whether the file holds the MTP head alone, as a draft model; llama.cpp decides by the same tensor."""
    return subject.number("{arch}.nextn_predict_layers") > 0 and "blk.0.attn_norm.weight" not in subject.tensors


def offsets(subject: Subject) -> Iterator[Diagnostic]:
    """Check that tensors follow one another without gaps."""
    for shard in subject.shards:
        for found, expected in zip(shard.tensors, contiguous(shard.tensors, shard.alignment), strict=True):
            if found.offset != expected.offset:
                yield Diagnostic(
                    "error", "offsets", found.name,
                    f"begins at {found.offset:,} where llama.cpp expects {expected.offset:,}",
                    "write the file again with the tool that made it",
                )  # fmt: skip
                return


def block_count(subject: Subject) -> Iterator[Diagnostic]:
    """Check `block_count`, which counts all blocks, with those of the MTP head."""
    count, there = subject.number("{arch}.block_count"), blocks_present(subject)
    key = f"{subject.arch}.block_count"
    if not count:
        yield Diagnostic("error", "blocks", key, "is missing or 0", AGAIN)
        return
    expected = set(range(count))
    if mtp_only(subject):
        expected = set(range(count - subject.number("{arch}.nextn_predict_layers"), count))
    if there == expected:
        return
    missing, extra = sorted(expected - there), sorted(there - expected)
    what = f"is {count}"
    if missing:
        what += f", but blocks {some_of(missing, SHOWN)} have no tensors"
    if extra:
        what += f"{', and' if missing else ', but'} there are tensors of blocks {some_of(extra, SHOWN)}"
    advice = AGAIN
    if not extra and missing == list(range(min(missing), count)):
        advice = f"set it to {min(missing)} with `qwen35 metadata`; unset nextn_predict_layers if these are MTP blocks"
    yield Diagnostic("error", "blocks", key, what, advice)


def nextn(subject: Subject) -> Iterator[Diagnostic]:
    """Check that the MTP blocks are those that the metadata announce."""
    key = f"{subject.arch}.nextn_predict_layers"
    count, blocks = subject.number(key), subject.number("{arch}.block_count")
    there = {int(f[1]) for name in subject.tensors if (f := BLOCK.fullmatch(name)) and f[2].startswith("nextn.")}
    expected = set(range(blocks - count, blocks))
    if not count and not there:
        yield Diagnostic(
            "note", "nextn", key, "there is no MTP head: only n-grams draft tokens",
            "put an mtp-*.gguf beside it, or convert without --no-mtp if the checkpoint has mtp.* tensors",
        )  # fmt: skip
    elif not there:
        yield Diagnostic(
            "error", "nextn", key, f"is {count}, but there is no tensor of an MTP head; llama.cpp refuses the file",
            f"unset it and set block_count to {blocks - count} with `qwen35 metadata`, or convert again",
        )  # fmt: skip
    elif not count:
        yield Diagnostic(
            "error", "nextn", key, f"is missing, but blocks {some_of(sorted(there), SHOWN)} are of an MTP head",
            f"set it to {len(there)} with `qwen35 metadata`",
        )  # fmt: skip
    elif there != expected:
        what = f"is {count}, but the MTP head is in blocks {some_of(sorted(there), SHOWN)} of {blocks}"
        yield Diagnostic("error", "nextn", key, what, AGAIN)


def shapes(subject: Subject) -> Iterator[Diagnostic]:
    """Check that every tensor that llama.cpp loads exists and has the shape that the metadata give."""
    try:
        model = architecture_of(subject)
    except ModelError as error:
        yield Diagnostic("error", "tensors", subject.path.name, str(error).removeprefix(f"{subject.path}: "), AGAIN)
        return
    expected = text_shapes(subject, model)
    missing = [name for name in expected if name not in subject.tensors and not OPTIONAL.fullmatch(name)]
    if missing:
        yield Diagnostic("error", "tensors", missing[0], f"missing: {some_of(missing, SHOWN)}", AGAIN)
    unknown = [
        name
        for name in subject.tensors
        if name not in expected
        and not OPTIONAL.fullmatch(name)
        and not ((block := BLOCK.fullmatch(name)) and int(block[1]) >= model.blocks)  # `block_count` reports these
    ]
    if unknown:
        what = f"unknown to llama.cpp, which refuses the file: {some_of(unknown, SHOWN)}"
        yield Diagnostic("error", "tensors", unknown[0], what, AGAIN)
    for name, shape in expected.items():
        found = subject.shape(name)
        if name in subject.tensors and _bare(found) != _bare(shape):
            what = f"has shape {list(found)}, where the metadata give {list(shape)}"
            yield Diagnostic("error", "tensors", name, what, AGAIN)


def architecture_of(subject: Subject) -> Architecture:
    """Read the hyper-parameters.

    Raises:
        ModelError: an entry is missing, not a size, or contradicts another.

    """
    shapes = {name: stored.tensor.shape for name, stored in subject.tensors.items()}
    return Architecture.from_gguf(subject.shards[0].metadata, shapes, str(subject.path))


def text_shapes(subject: Subject, model: Architecture) -> dict[str, Shape]:
    """Return the shapes of all tensors of the blocks that are present, in NumPy order."""
    shapes = expected_shapes(replace(model, tied=False))  # an output matrix is allowed, not needed
    first = f"blk.{model.layers}.nextn."
    for name in [name for name in shapes if name.startswith(first)]:  # llama.cpp wants them in each MTP block
        for block in range(model.layers + 1, model.blocks):
            shapes[f"blk.{block}.nextn.{name.removeprefix(first)}"] = shapes[name]
    for name in [name for name in subject.tensors if name.endswith(".ffn_gate_up_exps.weight")]:
        gate, up = (name.replace("gate_up", kind) for kind in ("gate", "up"))
        if gate in shapes:  # other converters join the two
            experts, rows, columns = shapes.pop(gate)
            shapes.pop(up)
            shapes[name] = experts, 2 * rows, columns
    present = blocks_present(subject)
    return {
        name: shape
        for name, shape in shapes.items()
        if not (found := BLOCK.fullmatch(name)) or int(found[1]) in present
    }


def _bare(shape: Shape) -> Shape:
    """Leave out leading dimensions of 1, which llama.cpp does not compare."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape
