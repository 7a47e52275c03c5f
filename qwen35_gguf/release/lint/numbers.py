"""Numbers of the metadata with which a file loads and answers nonsense, and entries that programs show or apply.

Source: llama.cpp src/models/qwen35.cpp (load_arch_hparams), and which values its samplers take (common/sampling.cpp).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from qwen35_gguf.architecture.config import DEFAULT_INTERVAL
from qwen35_gguf.release.lint.diagnostic import Diagnostic, Subject
from qwen35_gguf.release.lint.tensors import BLOCK

SET = "set it with `qwen35 metadata FILE set {} {}`"
AGAIN = "take it from the checkpoint's config.json, or convert again"
FAMILY_BASE = 1e7  # rope_theta of all sizes
RECURRENT = "{arch}.attention.recurrent_layers"
DEFAULT_BASE = 1e4  # llama.cpp's and transformers', where nothing is given


class Range(NamedTuple):
    """Where a number makes sense: {arch} stands for the architecture."""

    key: str
    sensible: Callable[[float], bool]
    what: str
    advice: str = AGAIN


NUMBERS = (
    Range(
        "{arch}.attention.layer_norm_rms_epsilon",
        lambda n: 0 < n <= 1e-2,
        "norms divide by zero, or lose what they normalize; the family has 0.000001",
    ),
    Range("{arch}.context_length", lambda n: 256 <= n <= 1 << 27, "no conversation of this length makes sense"),
    Range("{arch}.rope.freq_base", lambda n: 1e3 <= n <= 1e10, "positions are lost; the family has 10,000,000"),
    Range("{arch}.rope.scaling.factor", lambda n: 1 <= n <= 1024, "YaRN extends a context, it does not shorten it"),
    Range("{arch}.attention.head_count", lambda n: n >= 1, "there are no heads"),
    Range("{arch}.attention.head_count_kv", lambda n: n >= 1, "there are no heads"),
)
SAMPLING = (
    Range("general.sampling.temp", lambda n: 0 <= n <= 5, "must be from 0 to 5"),
    Range("general.sampling.top_p", lambda n: 0 < n <= 1, "must be above 0 and at most 1"),
    Range("general.sampling.min_p", lambda n: 0 <= n < 1, "must be from 0 to below 1"),
    Range("general.sampling.top_k", lambda n: n >= 0, "must be 0 (all) or more"),
    Range("general.sampling.penalty_repeat", lambda n: 0.1 <= n <= 5, "must be near 1"),
    Range("general.sampling.penalty_last_n", lambda n: n >= -1, "must be -1 (all) or more"),
    Range("general.sampling.xtc_probability", lambda n: 0 <= n <= 1, "must be from 0 to 1"),
    Range("general.sampling.xtc_threshold", lambda n: 0 <= n <= 1, "must be from 0 to 1"),
    Range("general.sampling.mirostat", lambda n: n in (0, 1, 2), "must be 0, 1 or 2"),
)


def hyper_parameters(subject: Subject) -> Iterator[Diagnostic]:
    """Check numbers that llama.cpp takes as they are."""
    for key, sensible, what, advice in NUMBERS:
        yield from (
            Diagnostic("error", "numbers", name, f"is {value}: {what}", advice)
            for name, value in _values(subject, key)
            if not (_is_number(value) and sensible(value))
        )
    for key in ("attention.layer_norm_rms_epsilon", "context_length"):  # the other ones are checked elsewhere
        if subject.get(f"{{arch}}.{key}") is None:
            what = "is missing; llama.cpp refuses the file"
            yield Diagnostic("error", "numbers", f"{subject.arch}.{key}", what, AGAIN)
    base = subject.get("{arch}.rope.freq_base")
    if base == DEFAULT_BASE:
        what = f"is {DEFAULT_BASE:,.0f}, the default where nothing is given; the family has {FAMILY_BASE:,.0f}"
        yield Diagnostic("warning", "numbers", f"{subject.arch}.rope.freq_base", what, AGAIN)
    heads, kv_heads = (subject.number(f"{{arch}}.attention.head_count{suffix}") for suffix in ("", "_kv"))
    if heads and kv_heads and heads % kv_heads:
        what = f"is {kv_heads}, which does not divide the {heads} heads"
        yield Diagnostic("error", "numbers", f"{subject.arch}.attention.head_count_kv", what, AGAIN)
    rotated, size = subject.number("{arch}.rope.dimension_count"), subject.number("{arch}.attention.key_length")
    if size and rotated > size:
        what = f"is {rotated}, more than the {size} of a head"
        yield Diagnostic("error", "numbers", f"{subject.arch}.rope.dimension_count", what, AGAIN)
    count, used = (subject.number(f"{{arch}}.expert{suffix}") for suffix in ("_count", "_used_count"))
    if count and not 1 <= used <= count:
        what = f"is {used}, of {count} experts"
        yield Diagnostic("error", "numbers", f"{subject.arch}.expert_used_count", what, AGAIN)
    yield from _experts(subject, count)


def _experts(subject: Subject, count: int) -> Iterator[Diagnostic]:
    """Compare the number of experts with the tensors."""
    stacked = {subject.shape(name)[0] for name in subject.tensors if re.search(r"\.ffn_(gate|up|down)_exps\.", name)}
    if stacked and stacked != {count}:
        what = f"is {count}, but the tensors have {', '.join(map(str, sorted(stacked)))} experts"
        yield Diagnostic("error", "numbers", f"{subject.arch}.expert_count", what, AGAIN)


def attention_interval(subject: Subject) -> Iterator[Diagnostic]:
    """Check that the layers with full attention are those of the interval, and those of the list of layers."""
    full = {
        int(block[1]): block[2] == "attn_q.weight"
        for name in subject.tensors
        if (block := BLOCK.fullmatch(name)) and block[2] in ("attn_q.weight", "ssm_a")
    }
    layers = subject.number("{arch}.block_count") - subject.number("{arch}.nextn_predict_layers")
    full = {layer: is_full for layer, is_full in sorted(full.items()) if layer < layers}
    places = [layer for layer, is_full in full.items() if is_full]
    fitting = places[0] + 1 if places else 0
    regular = bool(places) and all(is_full == (not (layer + 1) % fitting) for layer, is_full in full.items())

    key = f"{subject.arch}.full_attention_interval"
    interval = subject.number(key, DEFAULT_INTERVAL)
    wrong = _contradiction(full, [not (layer + 1) % interval if interval else True for layer in range(max(0, layers))])
    listed = subject.get(RECURRENT)
    if wrong and (regular or listed is None):  # no interval gives an irregular pattern; the list does
        yield Diagnostic("error", "interval", key, wrong, SET.format(key, fitting) if regular else AGAIN)
    if isinstance(listed, list) and (wrong := _contradiction(full, [not recurrent for recurrent in listed])):
        yield Diagnostic("error", "interval", RECURRENT.replace("{arch}", subject.arch), wrong, AGAIN)


def _contradiction(full: dict[int, bool], expected: list[bool]) -> str:
    """Return how the layers differ from those of the metadata; "" if they do not."""
    wrong = [layer for layer, is_full in full.items() if layer >= len(expected) or expected[layer] != is_full]
    if not wrong:
        return ""
    kind = "full attention" if full[wrong[0]] else "a gated delta net"
    return f"contradicts the tensors: layer {wrong[0]} has those of {kind}"


def sampling(subject: Subject) -> Iterator[Diagnostic]:
    """Check the settings of sampling that programs take from the file."""
    for key, sensible, what, _ in SAMPLING:
        for name, value in _values(subject, key):
            if not (_is_number(value) and sensible(value)):
                advice = f"set it with `qwen35 metadata FILE set {name} VALUE`, or remove it"
                yield Diagnostic("warning", "sampling", name, f"is {value}; {what}", advice)


def label(subject: Subject) -> Iterator[Diagnostic]:
    """Check what programs show: the name and the size."""
    name = subject.get("general.name")
    if not isinstance(name, str) or not name.strip():
        what = "is empty" if name is not None else "is missing"
        yield Diagnostic(
            "warning", "label", "general.name", f"{what}; lists show no name", SET.format("general.name", "NAME")
        )
    written = subject.get("general.size_label")
    if written is None:
        return
    weights = sum(stored.tensor.n_weights for stored in subject.tensors.values())
    if not _fits(written, weights):
        what = f"is {written!r}, but the file has {weights:,} weights"
        yield Diagnostic("warning", "label", "general.size_label", what, SET.format("general.size_label", "SIZE"))


def _fits(label: Any, weights: int) -> bool:
    """Tell whether a label, `9B`, `35B-A3B` or `8x1.2B`, may be that of a number of weights."""
    found = re.match(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([KMBT])(?:-A.*)?\Z", label) if isinstance(label, str) else None
    if found is None:
        return False
    size = float(found[2]) * {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[found[3]]
    return size <= 2 * weights and weights <= 2 * size * int(found[1] or 1)  # experts share a part of theirs


def _values(subject: Subject, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and each value of an entry; nothing for a missing one."""
    value = subject.get(key)
    for item in value if isinstance(value, list) else [value]:
        if item is not None:
            yield key.replace("{arch}", subject.arch), item


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
