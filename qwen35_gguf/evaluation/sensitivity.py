"""What each tensor's quantization costs alone: the KL divergence that it causes while all other tensors are exact.

The reference is loaded once, into writable memory. A tensor is quantized and dequantized in place of the original; the
text is evaluated, and the original is restored. Nothing is loaded or written in between.

The main model does not depend on the MTP head: for the head's tensors the divergence of its drafts is measured.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_gguf.errors import ModelError, QuantizationError, TextError
from qwen35_gguf.evaluation.file_array import new_array
from qwen35_gguf.evaluation.quantized_weights import Quantizing, Weight, quantized
from qwen35_gguf.evaluation.texts.tokenized import Split
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data
from qwen35_gguf.quant import kernels, tensor_types
from qwen35_gguf.quant.divergence import Floats, compare, log_softmax
from qwen35_gguf.quant.recipe_file import split_name
from qwen35_gguf.quant.search.costs import Cost, Costs
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.eval_callback import EvalCallback
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from qwen35_gguf.runtime.model_files import read_model
from qwen35_gguf.runtime.planning import memory

Type = GGMLQuantizationType
Array = npt.NDArray[Any]
Advance = Callable[[int, int], None]

TYPES = (Type.Q2_K, Type.Q3_K, Type.IQ4_XS, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.Q8_0)
STORED = {Type.F32: np.dtype(np.float32), Type.F16: np.dtype(np.float16), Type.BF16: np.dtype(ml_dtypes.bfloat16)}
PLAIN = Quantizing()
LOOKUPS = ("MUL_MAT", "MUL_MAT_ID", "GET_ROWS")
# Divergence over relative weighted error, by kind (`bench/recipes.py --kinds`).
FACTOR_LAYERS = 8
OTHER_FACTOR = 0.003
KIND_FACTORS = {
    "attn_gate": 0.0017, "attn_k": 0.00091, "attn_output": 0.00076, "attn_q": 0.0008, "attn_qkv": 0.0031,
    "attn_v": 0.00084, "ffn_down": 0.003, "ffn_gate": 0.00052, "ffn_up": 0.0004, "nextn.eh_proj": 0.1,
    "output": 0.14, "ssm_alpha": 0.000079, "ssm_beta": 0.00032, "ssm_out": 0.0064, "token_embd": 0.14,
}  # fmt: skip


def candidates(names: Mapping[str, tuple[int, ...]]) -> list[str]:
    """List the tensors that recipes choose a type for: matrices, except those that always stay F32."""
    return [name for name, shape in names.items() if len(shape) >= 2 and not tensor_types.KEPT_F32.search(name)]


def originals_of(model: Path) -> dict[str, Array]:
    """Map the weights of the tensors that recipes choose a type for, in the type and shape of the file.

    Raises:
        ModelError: one of them is quantized.

    """
    header = read_header(model)
    mapped = map_data(header)
    found = {}
    chosen = set(candidates({tensor.name: tensor.shape for tensor in header.tensors}))
    for tensor in header.tensors:
        if tensor.name not in chosen:
            continue
        if tensor.type not in STORED:
            raise ModelError(
                f"{model}: {tensor.name} is {tensor.type.name}; "
                "use a reference in F32, F16 or BF16 (`qwen35 convert -q BF16`)"
            )
        found[tensor.name] = tensor_data(header, tensor, mapped).view(STORED[tensor.type]).reshape(tensor.shape)
    return found


def describe(model: Path, identity: str, *, measured: bool = True) -> Costs:
    """Describe a reference: its sizes, and no costs yet."""
    header = read_model(model)
    counts = {tensor.name: math.prod(tensor.shape) for tensor in header.tensors}
    chosen = set(candidates({tensor.name: tensor.shape for tensor in header.tensors}))
    fixed = [tensor for tensor in header.tensors if tensor.name not in chosen]
    return Costs(
        model=model.stem,
        identity=identity,
        layers=memory.main_layers(header),
        weights=sum(counts.values()),
        header_bytes=max(0, model.stat().st_size - sum(tensor.nbytes for tensor in header.tensors)),
        fixed_bytes=sum(tensor.nbytes for tensor in fixed),
        measured=measured,
    )


def measure(
    model: Path,
    split: Split,
    *,
    how: Quantizing = PLAIN,
    types: Sequence[Type] = TYPES,
    known: Mapping[tuple[str, Type], Cost] | None = None,
    once: bool = False,
    chunk: int = 256,
    chunks: int = 4,
    advance: Advance = lambda _done, _all: None,
) -> Iterator[Cost]:
    """Measure what each tensor costs in each type.

    Args:
        model: the reference: a GGUF in F32, F16 or BF16.
        split: tokenizes the text.
        how: weights are quantized.
        types: to try; types whose blocks do not divide a tensor's rows are left out.
        known: costs of an earlier run; these are not measured again.
        once: measure each tensor in one type; in the others its divergence is in proportion to its weighted error.
        chunk: tokens of a chunk, which starts with an empty context; the second half is compared.
        chunks: number of chunks at most.
        advance: is called with the number of measurements that are done, and the number of all.

    Raises:
        ModelError: the reference is quantized, or cannot be loaded.
        TextError: the text is shorter than a chunk.

    """
    header = read_model(model)
    originals = originals_of(model)
    layers, mtp = memory.main_layers(header), memory.has_mtp(header)
    done = dict(known or {})
    # mapped or repacked weights cannot be overwritten
    writable = ModelSpec(mtp=mtp, mmap=False, repack=False)
    with Model(model, writable) as loaded, tempfile.TemporaryDirectory(prefix="qwen35-") as folder:
        ids = split(loaded)
        count = min(len(ids) // chunk, chunks)
        if not count:
            raise TextError(f"the text has {len(ids)} tokens, less than a chunk of {chunk}; use a longer text")
        threads = how.threads
        addresses = locate(loaded, ids[:chunk], list(originals), mtp, threads)
        tasks = [
            (name, type_)
            for name, original in originals.items()
            for type_ in (_once_first(types) if once else types)
            if name in addresses and not original.shape[-1] % GGML_QUANT_SIZES[type_][0]
        ]
        scales: dict[str, float] = {}  # divergence over error of the tensors that are measured once
        with _Comparison(
            loaded, [ids[i * chunk : (i + 1) * chunk] for i in range(count)], mtp, threads, folder
        ) as comparison:
            base = {head: comparison.divergence(head=head) for head in (False, True) if mtp or not head}
            for number, (name, type_) in enumerate(tasks):
                cost = done.get((name, type_))
                if cost is None:
                    shape = originals[name].shape
                    weight = Weight(name, addresses[name], originals[name].reshape(-1, *shape[-2:]), shape)
                    head = split_name(name, layers)[1] == -1
                    divergence = partial(_beyond, base[head], partial(comparison.divergence, head=head))
                    cost = _cost(weight, type_, how, divergence, scales.get(name))
                    if cost is not None:
                        yield cost
                if once and cost is not None and cost.error:
                    scales.setdefault(name, cost.divergence / cost.error)
                advance(number + 1, len(tasks))


def _once_first(types: Sequence[Type]) -> list[Type]:
    """Begin with the type that is measured: its errors are neither lost in noise, nor so large that they saturate."""
    first = Type.Q4_K if Type.Q4_K in types else types[len(types) // 2]
    return [first, *(type_ for type_ in types if type_ is not first)]


def _beyond(base: float, divergence: Callable[[], float]) -> float:
    return max(0.0, divergence() - base)


def _cost(
    weight: Weight, type_: Type, how: Quantizing, divergence: Callable[[], float], scale: float | None
) -> Cost | None:
    """Measure what a tensor costs, or scale its error; None: the type needs an importance matrix."""
    matrices, rows, columns = weight.shape
    try:
        values, error = quantized(weight, type_, how)
    except QuantizationError:
        return None
    size = matrices * rows * kernels.row_bytes(type_, columns)
    if scale is not None:
        return Cost(weight.name, type_, size, error, scale * error)
    weight.put(values)
    try:
        return Cost(weight.name, type_, size, error, divergence())
    finally:
        weight.put(weight.original)


def locate(model: Model, ids: Sequence[int], names: Sequence[str], mtp: bool, threads: int) -> dict[str, int]:
    """Find the addresses of llama.cpp's weights: they are inputs of the nodes of its graph."""
    wanted, found = set(names), {}

    def take(_kind: str, node: Any) -> None:
        source = node.src[0].contents
        found[source.name.decode()] = int(source.data)

    watch = EvalCallback(lambda kind, node: kind in LOOKUPS and node.src[0].contents.name.decode() in wanted, take)
    few = list(ids[:8])
    spec = ContextSpec(64, n_batch=64, n_threads=threads)
    with Context(model, replace(spec, n_outputs=8), hidden=mtp, eval_callback=watch) as main:
        main.evaluate(few, 0, outputs=1)
        main.logits(-1)
        if mtp:
            head = Context(model, spec, mtp_of=main, eval_callback=watch)
            try:
                head.evaluate(few[1:], 1, outputs=1, embd=main.hidden(len(few))[:-1])
                head.logits(-1)
            finally:
                head.close()
    return found


class _Comparison:
    """The text, the reference's log-probabilities in float32 files, and contexts to compare in."""

    def __init__(self, model: Model, parts: list[list[int]], mtp: bool, threads: int, folder: str) -> None:
        chunk = len(parts[0])
        self._parts, self._first = parts, chunk // 2
        spec = ContextSpec(chunk, n_batch=chunk, n_threads=threads, kv_type="f32", n_outputs=chunk - self._first)
        self._main = Context(model, spec, hidden=mtp)
        self._head = Context(model, spec, mtp_of=self._main) if mtp else None
        rows = chunk - 1 - self._first
        shape = (len(parts), rows, model.n_vocab)
        self._wanted: list[npt.NDArray[np.float32]] = []
        self._hidden: list[npt.NDArray[np.float32]] = []
        for head in (False, True) if mtp else (False,):
            self._wanted.append(new_array(Path(folder, f"reference-{head:d}"), shape))
            for number in range(len(parts)):
                if not head:
                    logits = self._main_logits(number)
                    if mtp:
                        self._hidden.append(self._main.hidden(chunk).copy())
                else:
                    logits = self._head_logits(number)
                self._wanted[head][number] = log_softmax(logits)

    def __enter__(self) -> _Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        if self._head is not None:
            self._head.close()
        self._main.close()

    def _main_logits(self, number: int) -> Floats:
        ids = self._parts[number]
        self._main.clear()
        self._main.evaluate(ids, 0, outputs=len(ids) - self._first)
        return self._main.last_logits(len(ids) - self._first)[:-1]

    def _head_logits(self, number: int) -> Floats:
        """Evaluate the MTP head with the hidden states of the reference."""
        assert self._head is not None
        ids = self._parts[number]
        rows = len(ids) - 1 - self._first
        self._head.clear()
        self._head.evaluate(ids[1:], 1, outputs=rows, embd=self._hidden[number][:-1])
        return self._head.last_logits(rows)

    def divergence(self, *, head: bool) -> float:
        """Return the mean KL divergence of all rows from the reference, in nats."""
        found = []
        for number, ids in enumerate(self._parts):
            logits = self._head_logits(number) if head else self._main_logits(number)
            targets = np.array(ids[self._first + 1 :], np.int64)
            found.append(compare(self._wanted[head][number], logits, targets)[0])
        return float(np.concatenate(found).mean())


def estimate(
    model: Path,
    *,
    how: Quantizing = PLAIN,
    types: Sequence[Type] = TYPES,
    advance: Advance = lambda _done, _all: None,
) -> Iterator[Cost]:
    """Estimate the costs from the weighted errors alone: nothing is evaluated, so the model may be of any size.

    A kind's factor turns its relative error to divergence; they were measured on examples/tiny-qwen3.5 and are means
    over layers, divided by the number of layers here.

    Raises:
        ModelError: the reference is quantized.

    """
    header = read_model(model)
    layers = memory.main_layers(header)
    originals = originals_of(model)
    for number, (name, stored) in enumerate(originals.items()):
        shape = stored.shape
        weight = Weight(name, 0, stored.reshape(-1, *shape[-2:]), shape)
        kind = split_name(name, layers)[0]
        factor = KIND_FACTORS.get(kind, OTHER_FACTOR)
        if name.startswith("blk."):
            factor *= FACTOR_LAYERS / max(1, layers)
        for type_ in types:
            if shape[-1] % GGML_QUANT_SIZES[type_][0]:
                continue
            try:
                _, error = quantized(weight, type_, how)
            except QuantizationError:
                continue
            size = weight.shape[0] * weight.shape[1] * kernels.row_bytes(type_, shape[-1])
            yield Cost(name, type_, size, error, factor * error)
        advance(number + 1, len(originals))
