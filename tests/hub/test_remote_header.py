"""Headers by range requests from a server on localhost that stands in for the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.hub.downloads import DownloadHub
from qwen35_gguf.errors import GgufError, HubError
from qwen35_gguf.gguf_file.reader import read_beginning, read_header
from qwen35_gguf.hub.client import download, read_repository
from qwen35_gguf.hub.remote_header import copy_headers, read_remote

pytestmark = pytest.mark.unit

FILE = "long-Q8_0.gguf"


def test_a_copy_has_the_header_and_the_length_of_the_file(hub: DownloadHub, long_header: Path, tmp_path: Path) -> None:
    (copy,) = copy_headers(read_repository("org/name"), [FILE], tmp_path)
    ours, theirs = read_header(copy), read_header(long_header)
    assert (ours.entries, ours.tensors, ours.size) == (theirs.entries, theirs.tensors, theirs.size)
    starts = [start for start, _ in hub.ranges[FILE]]
    assert len(starts) > 1  # in pieces
    assert starts == sorted(set(starts))  # none of them twice
    assert hub.sent(FILE) <= theirs.size


def test_what_is_in_the_cache_is_not_requested(hub: DownloadHub, tmp_path: Path) -> None:
    repository = read_repository("org/name")
    download("org/name", [FILE])
    hub.ranges.clear()
    (copy,) = copy_headers(repository, [FILE], tmp_path)
    assert read_header(copy).tensors
    assert not hub.ranges


@pytest.mark.parametrize("breaks", [[1000], [5000, 0, 70_000], [0, 0]])
def test_a_connection_that_breaks_is_made_again(hub: DownloadHub, long_header: Path, breaks: list[int]) -> None:
    hub.breaks = breaks
    assert long_header.read_bytes().startswith(read_remote(read_repository("org/name"), FILE))


def test_a_connection_that_breaks_each_time_is_one_line(hub: DownloadHub) -> None:
    hub.breaks = [0] * 9
    with pytest.raises(HubError, match=r"^org/name: download failed .*run it again"):
        read_remote(read_repository("org/name"), FILE)


def test_a_server_without_ranges_is_read_as_far_as_needed(hub: DownloadHub, long_header: Path) -> None:
    hub.knows_ranges = False
    assert long_header.read_bytes().startswith(read_remote(read_repository("org/name"), FILE))


@pytest.mark.usefixtures("hub")
def test_a_file_that_is_no_gguf_is_refused() -> None:
    with pytest.raises(GgufError, match="org/name/damaged-Q4_0.gguf: is not a GGUF file"):
        read_remote(read_repository("org/name"), "damaged-Q4_0.gguf")


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 1))
def test_every_beginning_gives_the_header_or_nothing(long_header: Path, share: float) -> None:
    data = long_header.read_bytes()
    whole = read_header(long_header)
    found = read_beginning(long_header, data[: int(share * len(data))], len(data))
    count = int(share * len(data))
    assert found is not None or count < whole.data_start
    assert found is None or count > whole.data_start - whole.alignment
    if found is not None:
        assert (found.entries, found.tensors, found.data_start) == (whole.entries, whole.tensors, whole.data_start)


@pytest.mark.parametrize("count", range(60))
def test_the_first_bytes_are_too_few(long_header: Path, count: int) -> None:
    assert read_beginning(long_header, long_header.read_bytes()[:count], long_header.stat().st_size) is None
