"""The reader and the writer against the gguf package, and the reader against files that are damaged on purpose."""

from __future__ import annotations

import dataclasses
import os
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen35_gguf.errors import GgufError
from qwen35_gguf.gguf_file.format import MAGIC, SCALARS, UINT32, UINT64, encode_string
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo, contiguous, encode_header
from qwen35_gguf.gguf_file.keyvalue import ARRAY, STRING, KeyValue
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data
from qwen35_gguf.gguf_file.writer import write_gguf

pytestmark = pytest.mark.unit

TYPES = [GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_K", "I32")]
LIMITS = {
    GGUFValueType.UINT8: (0, 2**8 - 1), GGUFValueType.INT8: (-(2**7), 2**7 - 1),
    GGUFValueType.UINT16: (0, 2**16 - 1), GGUFValueType.INT16: (-(2**15), 2**15 - 1),
    GGUFValueType.UINT32: (0, 2**32 - 1), GGUFValueType.INT32: (-(2**31), 2**31 - 1),
    GGUFValueType.UINT64: (0, 2**64 - 1), GGUFValueType.INT64: (-(2**63), 2**63 - 1),
}  # fmt: skip
FILES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LARGE = 8 << 30  # bytes of a sparse file, in which lengths of gigabytes look plausible

Tensors = list[tuple[TensorInfo, np.ndarray[Any, Any]]]


def scalars(type_: GGUFValueType) -> st.SearchStrategy[Any]:
    if type_ == STRING:
        return st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
    if type_ == GGUFValueType.BOOL:
        return st.booleans()
    if type_ in LIMITS:
        return st.integers(*LIMITS[type_])
    return st.floats(width=32 if type_ == GGUFValueType.FLOAT32 else 64, allow_nan=False)


@st.composite
def entries(draw: Any) -> list[KeyValue]:
    keys = st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1, max_size=30)
    taken = draw(st.lists(keys.filter(lambda key: key != "general.alignment"), unique=True, max_size=6))
    found = []
    for key in taken:
        type_ = draw(st.sampled_from([*SCALARS, STRING]))
        if draw(st.booleans()):  # the gguf package writes no empty arrays
            values = draw(st.lists(scalars(type_), min_size=1, max_size=5))
            found.append(KeyValue.of(key, values, ARRAY, type_))
        else:
            found.append(KeyValue.of(key, draw(scalars(type_)), type_))
    return found


@st.composite
def tensors(draw: Any) -> Tensors:
    names = draw(st.lists(st.text("abc.", min_size=1, max_size=9), unique=True, min_size=1, max_size=5))
    found = []
    for number, name in enumerate(names):
        type_ = draw(st.sampled_from(TYPES))
        outer = draw(st.lists(st.integers(1, 3), max_size=3))
        info = TensorInfo(name, (*outer, GGML_QUANT_SIZES[type_][0] * draw(st.integers(1, 3))), type_)
        found.append((info, np.random.default_rng(number).integers(0, 256, info.nbytes, np.uint8)))
    return found


def by_package(path: Path, metadata: list[KeyValue], data: Tensors) -> None:
    """Write the same file with the gguf package."""
    writer = gguf.GGUFWriter(path, "none")
    writer.kv_data[0].clear()
    for entry in metadata:
        writer.add_key_value(entry.key, entry.value, entry.type, sub_type=entry.element)
    for info, values in data:
        rows = values.reshape(*info.shape[:-1], -1)
        writer.add_tensor(info.name, rows, raw_dtype=info.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@FILES
@given(metadata=entries(), data=tensors())
def test_files_are_those_of_the_gguf_package(tmp_path: Path, metadata: list[KeyValue], data: Tensors) -> None:
    write_gguf(tmp_path / "ours.gguf", metadata, data)
    by_package(tmp_path / "theirs.gguf", metadata, data)
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


@FILES
@given(metadata=entries(), data=tensors())
def test_the_gguf_package_reads_the_same(tmp_path: Path, metadata: list[KeyValue], data: Tensors) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, metadata, data)
    header, theirs = read_header(path), gguf.GGUFReader(path)
    assert list(header.entries) == metadata
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert {key: field.contents() for key, field in fields.items()} == dict(header.metadata)
    assert [field.types for field in fields.values()] == [
        [entry.type] if entry.element is None else [entry.type, entry.element] for entry in header.entries
    ]
    assert header.alignment == theirs.alignment
    mapped = map_data(header)
    for ours, oracle, (info, values) in zip(header.tensors, theirs.tensors, data, strict=True):
        assert ours == dataclasses.replace(info, offset=ours.offset)
        assert (ours.name, ours.type, ours.nbytes) == (oracle.name, oracle.tensor_type, oracle.n_bytes)
        assert ours.shape == tuple(reversed(oracle.shape.tolist()))
        assert ours.n_weights == oracle.n_elements
        assert header.data_start + ours.offset == oracle.data_offset
        stored = tensor_data(header, ours, mapped)
        assert stored.shape == (ours.n_weights // ours.shape[-1], ours.row_bytes)
        assert stored.tobytes() == values.tobytes() == np.asarray(oracle.data).tobytes()
    assert header.tensors == contiguous(header.tensors, header.alignment)
    assert header.shapes == {info.name: info.shape for info, _ in data}


@FILES
@given(data=st.data(), metadata=entries(), stored=tensors())
def test_a_damaged_file_is_one_line(
    tmp_path: Path, data: st.DataObject, metadata: list[KeyValue], stored: Tensors
) -> None:
    """No change of a byte, and no end, leads to anything but a refusal or a header, nor to much memory."""
    path = tmp_path / "x.gguf"
    write_gguf(path, metadata, stored)
    raw = bytearray(path.read_bytes())
    start = read_header(path).data_start
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, start - 1), st.integers(0, 255)), max_size=4)):
        raw[at] = value
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    with small_memory():
        try:
            header = read_header(path)
            for entry in header.entries:
                assert entry.value is not None
            for tensor in header.tensors:
                tensor_data(header, tensor)
        except GgufError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 - most, but not all of them raise
            assert len(str(error).splitlines()) == 1  # noqa: PT017


def test_every_end_of_a_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    info = TensorInfo("a", (2, 32), GGMLQuantizationType.Q8_0)
    metadata = [KeyValue.of("k", ["a", "b"], ARRAY, STRING), KeyValue.of("n", 1, GGUFValueType.UINT32)]
    write_gguf(path, metadata, [(info, np.zeros(info.nbytes, np.uint8))])
    raw = path.read_bytes()
    end = read_header(path).data_start + info.nbytes
    for size in range(end):
        path.write_bytes(raw[:size])
        with pytest.raises(GgufError):
            read_header(path)
    path.write_bytes(raw[:end])  # without padding at the end, as some tools leave it
    assert read_header(path).tensors[0].nbytes == info.nbytes


@contextmanager
def small_memory() -> Iterator[None]:
    """Refuse what allocates as a damaged count tells it to."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def counts(n_tensors: int, n_entries: int) -> bytes:
    return MAGIC + UINT32.pack(3) + UINT64.pack(n_tensors) + UINT64.pack(n_entries)


def started(type_: GGUFValueType, rest: bytes) -> bytes:
    return counts(0, 1) + encode_string("key") + UINT32.pack(type_) + rest


def array(element: int, count: int) -> bytes:
    return started(ARRAY, UINT32.pack(element) + UINT64.pack(count))


def tensor(dimensions: list[int], type_: int = 0, offset: int = 0) -> bytes:
    shape = UINT32.pack(len(dimensions)) + b"".join(UINT64.pack(n) for n in dimensions)
    return counts(1, 0) + encode_string("t") + shape + UINT32.pack(type_) + UINT64.pack(offset)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (counts(1 << 28, 0), r"a count of 268,435,456"),
        (counts(0, 1 << 28), r"a count of 268,435,456"),
        (counts(0, (1 << 64) - 1), r"a count of 18,446"),
        (counts(0, 1) + UINT64.pack(4 << 30), r"a count of 4,294,967,296"),
        (started(STRING, UINT64.pack(4 << 30)), r"key has 4,294,967,304 bytes"),
        (started(STRING, UINT64.pack((1 << 64) - 1)), r"a string exceeds the file"),
        (array(GGUFValueType.UINT8, 4 << 30), r"a count of 4,294,967,296"),
        (array(GGUFValueType.FLOAT64, 1 << 27), r"a count of 134,217,728"),
        (array(STRING, 1 << 27), r"a count of 134,217,728"),
        (array(ARRAY, 1), r"key is an array of arrays"),
        (array(77, 1), r"a value type 77"),
        (started(99, b""), r"a value type 99"),  # type: ignore[arg-type]
        (tensor([1] * 5), r"t has 5 dimensions"),
        (tensor([32], type_=9999), r"t has the type 9999"),
        (tensor([33], type_=8), r"rows of 33, which are not whole blocks of Q8_0"),
        (tensor([1 << 62, 1 << 62, 1 << 62]), r"is truncated"),
        (tensor([0, 1 << 63]), r"t has no elements, and a dimension of 9,223,372,036,854,775,808"),
        (tensor([1 << 60, 1 << 60, 0]), r"t has no elements"),
        (tensor([32], offset=(1 << 64) - 32), r"is truncated"),
        (tensor([32], offset=LARGE - 128), r"is truncated"),
        (MAGIC + b"\0\0\0\3" + bytes(16), r"it is big-endian"),
        (MAGIC + UINT32.pack(1) + bytes(16), r"version 1"),
    ],
)
def test_lengths_of_gigabytes_are_refused_in_a_file_that_could_hold_them(
    tmp_path: Path, raw: bytes, message: str
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    os.truncate(path, LARGE)
    with small_memory(), pytest.raises(GgufError, match=message):
        read_header(path)


@pytest.mark.parametrize(
    ("metadata", "names", "message"),
    [
        ([("a", 1), ("a", 1)], ["t"], "a key occurs twice"),
        ([("general.alignment", 0)], ["t"], "general.alignment is 0"),
        ([("general.alignment", 48)], ["t"], "general.alignment is 48"),
        ([], ["t", "t"], "a tensor occurs twice"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, metadata: list[tuple[str, int]], names: list[str], message: str
) -> None:
    pairs = [KeyValue.of(key, value, GGUFValueType.UINT32) for key, value in metadata]
    infos = [TensorInfo(name, (8,), GGMLQuantizationType.F32) for name in names]
    path = tmp_path / "x.gguf"
    path.write_bytes(encode_header(pairs, infos, 32) + bytes(64))
    with pytest.raises(GgufError, match=message):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "is not a GGUF file"),
        (b"PK", "is not a GGUF file"),
        (b"GGUF", "the GGUF header is truncated"),
    ],
)
def test_what_is_not_a_gguf_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GgufError, match=message):
        read_header(path)
    with pytest.raises(GgufError, match="Is a directory"):
        read_header(tmp_path)


def large_vocabulary(path: Path) -> GgufHeader:
    tokens = [f"token {number}" for number in range(1000)]
    metadata = [
        KeyValue.of("general.architecture", "qwen35", STRING),
        KeyValue.of("tokenizer.ggml.tokens", tokens, ARRAY, STRING),
        KeyValue.of("qwen35.block_count", 24, GGUFValueType.UINT32),
    ]
    write_gguf(path, metadata, [(TensorInfo("t", (2, 3), GGMLQuantizationType.F32), np.ones((2, 3), np.float32))])
    return read_header(path)


def test_values_are_decoded_when_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = KeyValue.value.fget  # type: ignore[attr-defined]

    def value(entry: KeyValue) -> Any:
        decoded.append(entry.key)
        return original(entry)

    monkeypatch.setattr(KeyValue, "value", property(value))
    header = large_vocabulary(tmp_path / "x.gguf")
    assert decoded == []
    assert header.require_hparam("block_count") == 24
    assert "tokenizer.ggml.tokens" in header.metadata
    assert len(header.metadata) == 3
    entry = header.find("tokenizer.ggml.tokens")
    assert entry is not None
    assert (entry.count, entry.element) == (1000, STRING)
    assert set(decoded) == {"general.architecture", "qwen35.block_count"}
    assert header.value("tokenizer.ggml.tokens")[-1] == "token 999"


def test_look_ups(tmp_path: Path) -> None:
    header = large_vocabulary(tmp_path / "x.gguf")
    assert header.architecture == "qwen35"
    assert header.value("general.name", "none") == "none"
    assert header.find("general.name") is None
    assert header.hparam("nextn_predict_layers", 0) == 0
    with pytest.raises(GgufError, match=r"x\.gguf: has no qwen35\.context_length; make it again"):
        header.require_hparam("context_length")
    assert header.tensor("t") is header.tensors[0]
    assert header.tensor("u") is None
    data = tensor_data(header, header.tensors[0])
    assert not data.flags.writeable
    assert (data.view(np.float32) == 1).all()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    header = large_vocabulary(tmp_path / "x.gguf")
    os.truncate(header.path, header.size - 8)
    with pytest.raises(GgufError, match="changed while it was read"):
        tensor_data(header, header.tensors[0])
    header.path.unlink()
    with pytest.raises(GgufError, match="cannot be read"):
        map_data(header)


@pytest.mark.parametrize(
    ("value", "type_", "element"),
    [
        (256, GGUFValueType.UINT8, None),
        ("x", GGUFValueType.UINT8, None),
        (1, STRING, None),
        ("abc", ARRAY, STRING),
        (1, ARRAY, GGUFValueType.INT32),
        ([1], ARRAY, None),
        ([[1]], ARRAY, ARRAY),
        (["a"], ARRAY, GGUFValueType.INT32),
        ([1], ARRAY, STRING),
    ],
)
def test_a_value_of_another_type_is_refused(value: Any, type_: GGUFValueType, element: GGUFValueType | None) -> None:
    with pytest.raises((ValueError, OverflowError, struct.error)):
        KeyValue.of("key", value, type_, element)


def test_an_empty_array_and_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    empty = KeyValue.of("empty", [], ARRAY, GGUFValueType.INT32)
    broken = KeyValue("broken", STRING, UINT64.pack(2) + b"a\xff")
    write_gguf(path, [empty, broken], [])
    header = read_header(path)
    assert dict(header.metadata) == {"empty": [], "broken": "a\N{REPLACEMENT CHARACTER}"}
    assert encode_header(header.entries, header.tensors, header.alignment) == path.read_bytes()
