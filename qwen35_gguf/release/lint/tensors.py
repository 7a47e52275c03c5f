"""Which tensors a text model has to have, and of which shape, so that llama.cpp loads it and loads all of it.

Source: llama.cpp src/models/qwen35.cpp and qwen35moe.cpp (load_arch_tensors), src/gguf.cpp (offsets).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qwen35_gguf.gguf_file.layout import contiguous
from qwen35_gguf.release.lint.diagnostic import Finding, Subject

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

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


def offsets(subject: Subject) -> Iterator[Finding]:
    """Tensors have to follow one another without gaps."""
    for shard in subject.shards:
        for found, expected in zip(shard.tensors, contiguous(shard.tensors, shard.alignment), strict=True):
            if found.offset != expected.offset:
                yield Finding(
                    "error", "offsets", found.name,
                    f"begins at {found.offset:,} where llama.cpp expects {expected.offset:,}",
                    "write the file again with the tool that made it",
                )  # fmt: skip
                return


def block_count(subject: Subject) -> Iterator[Finding]:
    """`block_count` counts all blocks, those of the MTP head included."""
    count, there = subject.number("{arch}.block_count"), blocks_present(subject)
    key = f"{subject.arch}.block_count"
    if not count:
        yield Finding("error", "blocks", key, "is missing or 0", AGAIN)
        return
    expected = set(range(count))
    if mtp_only(subject):
        expected = set(range(count - subject.number("{arch}.nextn_predict_layers"), count))
    if there == expected:
        return
    missing, extra = sorted(expected - there), sorted(there - expected)
    what = f"is {count}"
    if missing:
        what += f", but blocks {_names(missing)} have no tensors"
    if extra:
        what += f"{', and' if missing else ', but'} there are tensors of blocks {_names(extra)}"
    advice = AGAIN
    if not extra and missing == list(range(min(missing), count)):
        advice = f"set it to {min(missing)} with `qwen35 metadata`, and unset nextn_predict_layers if these were MTP's"
    yield Finding("error", "blocks", key, what, advice)


def nextn(subject: Subject) -> Iterator[Finding]:
    """Check that the MTP blocks that are announced are there, and the other way round."""
    key = f"{subject.arch}.nextn_predict_layers"
    count, blocks = subject.number(key), subject.number("{arch}.block_count")
    there = {int(f[1]) for name in subject.tensors if (f := BLOCK.fullmatch(name)) and f[2].startswith("nextn.")}
    expected = set(range(blocks - count, blocks))
    if not count and not there:
        yield Finding(
            "note", "nextn", key, "there is no MTP head, so nothing drafts tokens",
            "convert without --no-mtp if the checkpoint has mtp.* tensors",
        )  # fmt: skip
    elif not there:
        yield Finding(
            "error", "nextn", key, f"is {count}, but there is no tensor of an MTP head; llama.cpp refuses the file",
            f"unset it and set block_count to {blocks - count} with `qwen35 metadata`, or convert again",
        )  # fmt: skip
    elif not count:
        yield Finding(
            "error", "nextn", key, f"is missing, but blocks {_names(sorted(there))} are of an MTP head",
            f"set it to {len(there)} with `qwen35 metadata`",
        )  # fmt: skip
    elif there != expected:
        what = f"is {count}, but the MTP head is in blocks {_names(sorted(there))} of {blocks}"
        yield Finding("error", "nextn", key, what, AGAIN)


def shapes(subject: Subject) -> Iterator[Finding]:
    """Every tensor that llama.cpp asks for has to be there and have the shape that the metadata promise."""
    there = blocks_present(subject)
    expected = expected_shapes(subject, there)
    missing = [name for name in expected if name not in subject.tensors and not OPTIONAL.fullmatch(name)]
    if missing:
        yield Finding("error", "tensors", missing[0], f"missing: {_names(missing)}", AGAIN)
    unknown = [name for name in subject.tensors if name not in expected and not OPTIONAL.fullmatch(name)]
    if unknown:
        what = f"llama.cpp knows no such tensor and refuses the file: {_names(unknown)}"
        yield Finding("error", "tensors", unknown[0], what, AGAIN)
    for name, shape in expected.items():
        found = subject.shape(name)
        if name in subject.tensors and _bare(found) != _bare(shape):
            what = f"has shape {list(found)}, where the metadata make it {list(shape)}"
            yield Finding("error", "tensors", name, what, AGAIN)


def expected_shapes(subject: Subject, blocks: set[int]) -> Shapes:
    """Derive all tensors of the given blocks from the metadata, the row length first."""
    width, count = subject.number("{arch}.embedding_length"), subject.number("{arch}.block_count")
    trunk = count - subject.number("{arch}.nextn_predict_layers")
    recurrent = subject.get("{arch}.attention.recurrent_layers")
    if not isinstance(recurrent, list) or len(recurrent) < trunk:
        every = max(1, subject.number("{arch}.full_attention_interval", 4))
        recurrent = [bool((layer + 1) % every) for layer in range(trunk)]
    vocabulary = (*subject.shape("token_embd.weight"), 0, 0)[1]
    found: Shapes = {"token_embd.weight": (width, vocabulary), "output_norm.weight": (width,)}
    found["output.weight"] = (width, vocabulary)
    for block in sorted(blocks):
        of_block: Shapes = {"attn_norm.weight": (width,), "post_attention_norm.weight": (width,)}
        delta = block < trunk and recurrent[block]
        of_block |= _delta_net(subject, width) if delta else _attention(subject, width)
        of_block |= _experts(subject, width) if subject.arch == "qwen35moe" else _feed_forward(subject, width)
        if block >= trunk:
            of_block |= _mtp(width)
        found |= {f"blk.{block}.{name}": shape for name, shape in of_block.items()}
    return found


def _attention(subject: Subject, width: int) -> Shapes:
    heads, shared = (subject.number(f"{{arch}}.attention.head_count{kind}") for kind in ("", "_kv"))
    keys, values = (subject.number(f"{{arch}}.attention.{kind}_length") for kind in ("key", "value"))
    return {
        "attn_q.weight": (width, 2 * heads * keys),  # with the gate
        "attn_k.weight": (width, shared * keys),
        "attn_v.weight": (width, shared * values),
        "attn_output.weight": (heads * keys, width),
        "attn_q_norm.weight": (keys,),
        "attn_k_norm.weight": (keys,),
    }


def _delta_net(subject: Subject, width: int) -> Shapes:
    keys = ("state_size", "group_count", "time_step_rank", "conv_kernel")
    head, groups, rank, taps = (subject.number(f"{{arch}}.ssm.{key}") for key in keys)
    values = head * rank
    channels = 2 * head * groups + values
    return {
        "attn_qkv.weight": (width, channels),
        "attn_gate.weight": (width, values),
        "ssm_conv1d.weight": (taps, channels),
        "ssm_dt.bias": (rank,),
        "ssm_a": (rank,),
        "ssm_alpha.weight": (width, rank),
        "ssm_beta.weight": (width, rank),
        "ssm_norm.weight": (head,),
        "ssm_out.weight": (values, width),
    }


def _feed_forward(subject: Subject, width: int) -> Shapes:
    inner = subject.number("{arch}.feed_forward_length")
    return {"ffn_gate.weight": (width, inner), "ffn_up.weight": (width, inner), "ffn_down.weight": (inner, width)}


def _experts(subject: Subject, width: int) -> Shapes:
    count, inner = subject.number("{arch}.expert_count"), subject.number("{arch}.expert_feed_forward_length")
    shared = subject.number("{arch}.expert_shared_feed_forward_length")
    merged = any(name.endswith(".ffn_gate_up_exps.weight") for name in subject.tensors)
    gate_up: Shapes = {"ffn_gate_exps.weight": (width, inner, count), "ffn_up_exps.weight": (width, inner, count)}
    return {
        "ffn_gate_inp.weight": (width, count),
        **({"ffn_gate_up_exps.weight": (width, 2 * inner, count)} if merged else gate_up),
        "ffn_down_exps.weight": (inner, width, count),
        "ffn_gate_inp_shexp.weight": (width,),
        "ffn_gate_shexp.weight": (width, shared),
        "ffn_up_shexp.weight": (width, shared),
        "ffn_down_shexp.weight": (shared, width),
    }


def _mtp(width: int) -> Shapes:
    return {
        "nextn.eh_proj.weight": (2 * width, width),
        "nextn.enorm.weight": (width,),
        "nextn.hnorm.weight": (width,),
        "nextn.shared_head_norm.weight": (width,),
    }


def _bare(shape: Shape) -> Shape:
    """Leave the ones at the end out, which llama.cpp does not compare."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _names(items: list[int] | list[str]) -> str:
    shown = ", ".join(map(str, items[:SHOWN]))
    return f"{shown} and {len(items) - SHOWN} more" if len(items) > SHOWN else shown
