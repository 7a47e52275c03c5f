"""Split a GGUF file into shards and merge them again, without changing a byte of tensors or metadata.

The format is that of llama-gguf-split: `Name-00001-of-0000N.gguf`, all metadata in the first shard, and in each of them
`split.no` (from 0), `split.tensors.count` (of all shards) and `split.count`. A tensor is never split. llama.cpp
loads the whole set from the path of the first shard. Source: tools/gguf-split/gguf-split.cpp of llama.cpp.

Different on purpose: a shard's size includes its header, so that no file exceeds the limit (except one with a single
larger tensor); merging removes the split keys, so that the file is the one that was split; an alignment other than 32
is written to every shard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from gguf import GGUFValueType

from qwen35_gguf.atomic_file import check_output, check_space, disk_errors, pending_file
from qwen35_gguf.errors import GgufError, OutputError
from qwen35_gguf.gguf_file.format import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, HEADER_BYTES, padded
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo, contiguous, encode_header
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.gguf_file.writer import copy_bytes
from qwen35_gguf.json_file import is_whole, shown

NO, TOTAL, COUNT = "split.no", "split.tensors.count", "split.count"
SPLIT_KEYS = (NO, TOTAL, COUNT)
LARGEST_NUMBER = (1 << 31) - 1  # of them
SHARD_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
MAX_SHARDS = 65535  # split.count has 16 bits

Advance = Callable[[int], None]


def shard_path(folder: Path, prefix: str, index: int, count: int) -> Path:
    """Name a shard; `index` counts from 0."""
    return folder / f"{prefix}-{index + 1:05}-of-{count:05}.gguf"


def read_set(first: Path) -> list[GgufHeader]:
    """Read the headers of a model: one file, or all shards of the set that `first` belongs to.

    Raises:
        GgufError: a shard is missing, truncated, or of another set.

    """
    header = read_header(first)
    _check_keys(header)
    count = header.value(COUNT, 0)
    if count <= 1 and not SHARD_NAME.fullmatch(first.name):
        return [header]
    name = SHARD_NAME.fullmatch(first.name)
    if name is None:
        number = header.value(NO, 0) + 1
        raise GgufError(
            f"{first}: is shard {number} of {count}, but not named like one; rename it to "
            f"NAME-{number:05}-of-{count:05}.gguf"
        )
    if header.find(COUNT) is None:
        raise GgufError(f"{first}: is named like a shard, but has no {COUNT}; rename it")
    count, number = int(name["count"]), int(name["number"])
    if not 1 <= number <= count:
        raise GgufError(f"{first}: is named like shard {number} of {count}, which there cannot be; rename it")
    shards: list[GgufHeader] = []
    for index in range(count):
        path = shard_path(first.parent, name["prefix"], index, count)
        if not path.is_file():
            raise GgufError(f"{path}: is missing; put all {count} shards into one folder")
        shards.append(read_header(path))
        _check_keys(shards[-1])
        _check_shard(shards[-1], shards[0], index, count)
    _check_tensors(shards)
    return shards


def _check_keys(header: GgufHeader) -> None:
    """Refuse keys of shards that are not counts: whoever made the file decides about their types."""
    for key in SPLIT_KEYS:
        value = header.value(key, 0)
        if not is_whole(value, 0, LARGEST_NUMBER):
            raise GgufError(f"{header.path}: {key} is {shown(value)}, which is not a count; download it again")


def _check_shard(shard: GgufHeader, first: GgufHeader, index: int, count: int) -> None:
    for key, expected in ((NO, index), (COUNT, count), (TOTAL, first.value(TOTAL))):
        if shard.value(key) != expected:
            raise GgufError(
                f"{shard.path}: belongs to another set of shards ({key} is {shard.value(key)}, expected {expected}); "
                "download the whole set again"
            )


def _check_tensors(shards: Sequence[GgufHeader]) -> None:
    shard_of: dict[str, Path] = {}
    for shard in shards:
        for tensor in shard.tensors:
            if tensor.name in shard_of:
                raise GgufError(
                    f"{shard.path}: {tensor.name} is also in {shard_of[tensor.name].name}; download the set again"
                )
            shard_of[tensor.name] = shard.path
    total = shards[0].value(TOTAL)
    if total is not None and total != len(shard_of):
        raise GgufError(
            f"{shards[0].path}: {TOTAL} is {total}, but the shards hold {len(shard_of)}; download the set again"
        )


def split(
    file: Path,
    out: Path,
    max_bytes: int,
    *,
    prefix: str = "",
    force: bool = False,
    advance: Advance = lambda _: None,
) -> list[Path]:
    """Split a GGUF file into shards of at most `max_bytes`; all of them appear at the end, or none does.

    Args:
        file: the GGUF file.
        out: folder of the shards; made if absent.
        max_bytes: size limit of a shard, with its header.
        prefix: first part of the shards' names; empty: the name of the file.
        force: replace existing files.
        advance: called with the bytes of every tensor written.

    Returns:
        The shards, in order.

    Raises:
        GgufError: the file is damaged, or is itself a shard.
        OutputError: a shard exists already, cannot be written, or there is no space.

    """
    header = read_header(file)
    _check_keys(header)
    if header.value(COUNT, 0) > 1:
        raise GgufError(f"{file}: is a shard itself; merge its set first with `qwen35 merge`")
    groups = _groups(header, max_bytes)
    if len(groups) > MAX_SHARDS:
        raise OutputError(f"{file}: {max_bytes:,} bytes per shard make {len(groups):,} shards; choose a larger size")
    stem = prefix or file.name.removesuffix(".gguf")
    paths = [shard_path(out, stem, index, len(groups)) for index in range(len(groups))]
    _check_outputs(paths, header.size, inputs=[file], force=force)
    with ExitStack() as stack, file.open("rb") as source:
        drafts = []
        for index, (path, group) in enumerate(zip(paths, groups, strict=True)):
            shard = stack.enter_context(pending_file(path, force=force))
            entries = list(_shard_entries(header, index, len(groups)))
            with disk_errors(shard.path):
                placed = contiguous(group, header.alignment)
                shard.file.write(encode_header(entries, placed, header.alignment, header.version))
                for tensor in group:
                    source.seek(header.data_start + tensor.offset)
                    copy_bytes(source, shard.file, tensor.nbytes, file)
                    shard.file.write(b"\0" * (-tensor.nbytes % header.alignment))
                    advance(tensor.nbytes)
            shard.finish()
            drafts.append(shard)
        for shard in reversed(drafts):  # the first shard, which is the one to load, appears last
            shard.publish()
    return paths


def merge(first: Path, out: Path, *, force: bool = False, advance: Advance = lambda _: None) -> Path:
    """Merge a set of shards into one file.

    Args:
        first: any shard of the set; the others must be beside it.
        out: the file to write.
        force: replace an existing file.
        advance: called with the bytes of every tensor written.

    Raises:
        GgufError: a shard is missing, damaged, or one of another set.
        OutputError: the file exists already, cannot be written, or there is no space.

    """
    shards = read_set(first)
    head = shards[0]
    if len(shards) == 1 and head.find(COUNT) is None:
        raise GgufError(f"{first}: is not a shard; there is nothing to merge")
    if any(out.exists() and shard.path.samefile(out) for shard in shards):
        raise OutputError(f"{out}: is one of the shards; choose another name with -o")
    entries = [entry for entry in head.entries if entry.key not in SPLIT_KEYS]
    tensors = contiguous((tensor for shard in shards for tensor in shard.tensors), head.alignment)
    header = encode_header(entries, tensors, head.alignment, head.version)
    size = len(header) + sum(padded(tensor.nbytes, head.alignment) for tensor in tensors)
    _check_outputs([out], size, force=force)
    with pending_file(out, force=force) as whole:
        with disk_errors(whole.path):
            whole.file.write(header)
            for shard in shards:
                with shard.path.open("rb") as source:
                    for tensor in shard.tensors:
                        source.seek(shard.data_start + tensor.offset)
                        copy_bytes(source, whole.file, tensor.nbytes, shard.path)
                        whole.file.write(b"\0" * (-tensor.nbytes % head.alignment))
                        advance(tensor.nbytes)
        whole.finish()
        whole.publish()
    return out


def _check_outputs(paths: Sequence[Path], needed: int, *, inputs: Sequence[Path] = (), force: bool) -> None:
    for path in paths:
        check_output(path, inputs=inputs, force=force)
    with disk_errors(paths[0].parent):
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        check_space(paths[0].parent, needed)


def _groups(header: GgufHeader, max_bytes: int) -> list[list[TensorInfo]]:
    """Fill each shard, in order, with the tensors that fit beside its header; at least one."""
    groups: list[list[TensorInfo]] = []
    head = data = 0
    for tensor in header.tensors:
        head += len(tensor.record)
        data += padded(tensor.nbytes, header.alignment)
        if not groups or padded(head, header.alignment) + data > max_bytes:
            entries = _shard_entries(header, len(groups), 1)
            head = HEADER_BYTES + sum(len(entry.record) for entry in entries) + len(tensor.record)
            data = padded(tensor.nbytes, header.alignment)
            groups.append([])
        groups[-1].append(tensor)
    return groups or [[]]


def _shard_entries(header: GgufHeader, index: int, count: int) -> Iterator[KeyValue]:
    """Yield the entries of a shard in the order in which llama-gguf-split writes them."""
    for entry in header.entries:
        of_all = entry.key == ALIGNMENT_KEY and header.alignment != DEFAULT_ALIGNMENT
        if (index == 0 or of_all) and entry.key not in SPLIT_KEYS:
            yield entry
    yield KeyValue.of(NO, index, GGUFValueType.UINT16)
    yield KeyValue.of(TOTAL, len(header.tensors), GGUFValueType.INT32)
    yield KeyValue.of(COUNT, count, GGUFValueType.UINT16)
