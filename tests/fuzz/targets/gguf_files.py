"""GGUF files: the reader, shards, importance matrices, moments, adapters, and the checks of whole models."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from fuzz.target import Target, as_file, scratch
from qwen35_gguf.architecture.text_model import Architecture
from qwen35_gguf.errors import VisionError
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo, contiguous, encode_header
from qwen35_gguf.gguf_file.keyvalue import ARRAY, STRING, KeyValue
from qwen35_gguf.gguf_file.reader import map_data, read_beginning, read_header, tensor_data
from qwen35_gguf.gguf_file.writer import write_gguf
from qwen35_gguf.quant import imatrix
from qwen35_gguf.quant.rounding import merge_moments, moments
from qwen35_gguf.release import metadata_edit
from qwen35_gguf.release.lint import check_file
from qwen35_gguf.runtime import model_files
from qwen35_gguf.runtime.llama.adapters import lora_file

Type = GGMLQuantizationType
UINT32, FLOAT32 = GGUFValueType.UINT32, GGUFValueType.FLOAT32
SHARD = 300  # bytes, so that each of the two tensors has its own
DATA = 8 << 20  # bytes of the hole in which the tensors of a model are
TEMPLATE = "tokenizer.chat_template"
HEADERS = sorted(Path(__file__).parents[1].glob("corpus/header-of-*.gguf"))


def small(path: Path, metadata: Sequence[KeyValue] = ()) -> bytes:
    """The bytes of a file with a few entries of every kind, and two tensors."""
    entries = [
        KeyValue.of("general.architecture", "qwen35", STRING),
        KeyValue.of("a", [1, 2], ARRAY, GGUFValueType.INT16),
        KeyValue.of("b", ["x", "yz"], ARRAY, STRING),
        KeyValue.of("c", 0.5, FLOAT32),
        *metadata,
    ]
    tensors = [("t.weight", (2, 32), Type.Q8_0), ("u.weight", (3,), Type.F32)]
    infos = [TensorInfo(*tensor) for tensor in tensors]
    write_gguf(path, entries, [(info, np.zeros(info.nbytes, np.uint8)) for info in infos])
    return path.read_bytes()


# ---- the reader ----------------------------------------------------------------------------------------------------


def read(data: bytes) -> None:
    """Read all that a file has, and write its header again."""
    read_beginning(Path("x"), data[: len(data) // 2], len(data))
    header = read_header(as_file("x.gguf", data))
    for entry in header.entries:
        assert entry.value is not None
    mapped = map_data(header)
    for tensor in header.tensors:
        assert tensor_data(header, tensor, mapped).nbytes == tensor.nbytes
    again = encode_header(header.entries, header.tensors, header.alignment, header.version)
    assert again == data[: len(again)] or len(again) > len(data) or not header.tensors or b"\0" in data


def read_seeds() -> list[bytes]:
    """A file, and one of another alignment."""
    path = scratch() / "seed.gguf"
    data = small(path)
    header = read_header(path)
    entries = [*header.entries, KeyValue.of("general.alignment", 64, UINT32)]
    return [data, encode_header(entries, contiguous(header.tensors, 64), 64) + bytes(256)]


def merge(data: bytes) -> None:
    """Read a set of two shards, of which one is damaged, and merge it; split the result."""
    folder = scratch() / "set"
    folder.mkdir(exist_ok=True)
    good, bad = (shards.shard_path(folder, "m", index, 2) for index in (0, 1))
    if not good.exists():
        source = folder / "m.gguf"
        small(source)
        made = shards.split(source, folder, SHARD, force=True)
        assert len(made) == 2
        source.unlink()
    bad.write_bytes(data)
    whole = shards.merge(good, folder / "whole.gguf", force=True)
    shards.split(whole, folder / "again", SHARD, force=True)


def merge_seeds() -> list[bytes]:
    """The second shard."""
    folder = scratch() / "seeds"
    folder.mkdir(exist_ok=True)
    small(folder / "m.gguf")
    return [shards.split(folder / "m.gguf", folder, SHARD, force=True)[1].read_bytes()]


# ---- files of statistics, and adapters -----------------------------------------------------------------------------


def read_imatrix(data: bytes) -> None:
    """Read an importance matrix, of either format, and write it again."""
    found = imatrix.read(as_file("x.imatrix", data))
    for name, entry in found.entries.items():
        found.importance(name, (len(entry.sums), 1, entry.sums.shape[-1]))
    imatrix.write(found, scratch() / "again.imatrix")
    imatrix.merge([found, found])


def imatrix_seeds() -> list[bytes]:
    """A GGUF, and the older format."""
    made = imatrix.Imatrix(datasets=["a.txt"], chunks=2)
    made.add("blk.0.ffn_up.weight", np.ones((1, 4), np.float32), np.ones(1))
    made.add("blk.0.e.weight", np.ones((2, 4), np.float32), np.ones(2))
    path = scratch() / "seed.imatrix"
    imatrix.write(made, path)
    old = np.array([1, 1], "<i4").tobytes() + b"a" + np.array([2, 3], "<i4").tobytes() + np.ones(3, "<f4").tobytes()
    return [path.read_bytes(), old + np.array([7, 1], "<i4").tobytes() + b"d"]


def read_moments(data: bytes) -> None:
    """Read moments, and use them."""
    found = moments.read(as_file("x.moments", data))
    found.too_few()
    found.importance(found.names)
    for name in found.names:
        shape = found.sums(name).shape
        for number in range(min(2, shape[0])):
            found.matrix(name, number, shape[-1])
    merge_moments.join([found, found], scratch() / "joined.moments")


def moments_seeds() -> list[bytes]:
    """Whole matrices of two experts."""
    path = scratch() / "seed.moments"
    provenance = moments.Provenance("full", "f", "t", ("a",), 1)
    sums = np.stack([np.eye(4, dtype=np.float32)] * 2)
    entry = moments.Entry("blk.0.ffn_gate.weight", sums, np.ones((2, 4)), np.ones(2))
    moments.write(path, provenance, {entry.name: (sums.shape, 4)}, [entry])
    return [path.read_bytes()]


@functools.cache
def adapted() -> GgufHeader:
    """A model that an adapter may fit."""
    path = scratch() / "model.gguf"
    small(path)
    return read_header(path)


def read_adapter(data: bytes) -> None:
    """Check an adapter against a model."""
    header = lora_file.check_adapter(as_file("adapter.gguf", data), adapted())
    lora_file.changes_mtp_head(header, 1)


def adapter_seeds() -> list[bytes]:
    """An adapter that fits."""
    path = scratch() / "seed-adapter.gguf"
    entries = [
        KeyValue.of("general.architecture", "qwen35", STRING),
        KeyValue.of("general.type", "adapter", STRING),
        KeyValue.of("adapter.type", "lora", STRING),
        KeyValue.of("adapter.lora.alpha", 2.0, FLOAT32),
    ]
    infos = [TensorInfo("t.weight.lora_a", (1, 32), Type.F32), TensorInfo("t.weight.lora_b", (2, 1), Type.F32)]
    write_gguf(path, entries, [(info, np.zeros(info.nbytes, np.uint8)) for info in infos])
    return [path.read_bytes()]


# ---- whole models --------------------------------------------------------------------------------------------------


def check_model(data: bytes) -> None:
    """Read the header of a model whose tensors are a hole, lint it, and change an entry."""
    path = as_file("model-of-fuzz.gguf", data)
    with path.open("r+b") as file:
        file.truncate(len(data) + DATA)
    header = read_header(path)
    check_file.lint(check_file.read_subject(path), values=len(data) % 4 == 0, jobs=1)
    encoder = path.with_name("mmproj-of-fuzz.gguf")
    encoder.unlink(missing_ok=True)
    encoder.hardlink_to(path)
    for width in (1024, 256):
        with contextlib.suppress(VisionError):
            model_files.find_mmproj(path, width)
    whole = model_files.read_model(path)
    model_files.require_tensor(whole, "output_norm.weight")
    model_files.model_identity(path)
    Architecture.from_gguf(whole.metadata, whole.shapes)
    for key in ("general.name", "qwen35.context_length"):
        metadata_edit.new_entry(header, key, "7")


def model_seeds() -> list[bytes]:
    """The headers of a small model and its vision encoder, and an adapter."""
    beginnings = [path.read_bytes() for path in HEADERS]
    headers = [read_beginning(Path("x"), data, len(data) + DATA) for data in beginnings]
    text = next(header for header in headers if header is not None and header.architecture != "clip")
    changed = [
        [KeyValue.of(TEMPLATE, source, STRING)]
        for source in (
            "",
            "{% if %}",
            "{{ messages[0].content }}{{ tools }}",
            "{{ raise_exception('no') }}",
            "{{ 1 / 0 }}",
        )
    ]
    names = KeyValue.of("tokenizer.chat_templates", ["tool_use", "rag", "x"], ARRAY, STRING)
    for source in ("{{ messages }}{{ tools }}", "{% for %}"):
        changed.append([names, *(KeyValue.of(f"{TEMPLATE}.{one}", source, STRING) for one in ("tool_use", "rag"))])
    changed.append([KeyValue.of("general.architecture", "llama", STRING)])
    seeds = []
    for entries in changed:
        keys = {entry.key for entry in entries}
        kept = [entry for entry in text.entries if entry.key not in keys]
        seeds.append(encode_header([*kept, *entries], text.tensors, text.alignment))
    return [*beginnings, *adapter_seeds(), *seeds]


READER = ("qwen35_gguf.gguf_file.reader", "qwen35_gguf.gguf_file.header", "qwen35_gguf.gguf_file.keyvalue")
WORDS = ("GGUF", "general.architecture", "general.alignment", "split.count", "split.no", "general.type", ".weight")
LINT = tuple(
    f"qwen35_gguf.release.lint.{name}"
    for name in ("adapter", "constant", "metadata", "numbers", "template", "tensors", "vision", "weights")
)
TARGETS = (
    Target("gguf", read, read_seeds, READER, WORDS),
    Target("gguf-shards", merge, merge_seeds, ("qwen35_gguf.gguf_file.shards",), WORDS),
    Target("imatrix", read_imatrix, imatrix_seeds, ("qwen35_gguf.quant.imatrix",), (".in_sum2", ".counts", "imatrix")),
    Target("moments", read_moments, moments_seeds, ("qwen35_gguf.quant.rounding.moments",), (".moments", "block")),
    Target("adapter", read_adapter, adapter_seeds, ("qwen35_gguf.runtime.llama.adapters.lora_file",), (".lora_a",)),
    Target(
        "model",
        check_model,
        model_seeds,
        (*LINT, "qwen35_gguf.architecture.text_model", "qwen35_gguf.runtime.model_files"),
        (*WORDS, "qwen35.", "clip", "nextn_predict_layers"),
        needs=("jinja2",),
        longest=1 << 15,
    ),
)
