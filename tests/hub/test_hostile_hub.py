"""A Hub, or a repository, that is broken or means harm: one line, in bounded time."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from oracles.hub.downloads import COMMIT, own_cache, point_to
from qwen35_gguf.errors import GgufError, HubError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.hub import client
from qwen35_gguf.hub.client import Repository, read_repository
from qwen35_gguf.hub.model_files import find_quant, model_files
from qwen35_gguf.hub.names import HubName
from qwen35_gguf.hub.remote_header import copy_headers, read_remote

pytestmark = pytest.mark.unit

REPO = "org/name"
FILE = "long-Q8_0.gguf"
Range = Callable[[int, int], tuple[int, dict[str, str], bytes]]


class _Hostile(BaseHTTPRequestHandler):
    """Answers with a listing, and what `content` gives for a range."""

    listing = b""
    content: Range
    asked = 0

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            self._answer(200, {"Content-Type": "application/json"}, self.listing)
            return
        type(self).asked += 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        assert asked
        self._answer(*type(self).content(int(asked[1]), int(asked[2]) + 1))

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hostile]]:
    class Handler(_Hostile):
        pass

    own_cache(monkeypatch, str(tmp_path))
    with _serving(Handler) as address:
        point_to(monkeypatch, address)
        yield Handler


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _listing(*files: Any) -> bytes:
    siblings = [{"rfilename": name, "size": size} for name, size in files]
    return json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode()


@pytest.mark.parametrize("size", ["12", [1], -1, 1.5, 1e400, 1 << 70, {"a": 1}, True], ids=str)
def test_a_size_that_is_none(hostile: type[_Hostile], size: Any) -> None:
    hostile.listing = _listing((FILE, size))
    with pytest.raises(HubError, match=r"^org/name: .*; (try again later|run it again.*)$"):
        read_repository(REPO)


@pytest.mark.parametrize("name", [12, None, ["a.gguf"], {"a": 1}, True], ids=str)
def test_a_name_that_is_none(hostile: type[_Hostile], name: Any) -> None:
    hostile.listing = _listing((name, 5))
    with pytest.raises(HubError, match=r"^org/name: the Hub lists a file without a name"):
        read_repository(REPO)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../../a.gguf",
            "/etc/a.gguf",
            "a/../b.gguf",
            "",
            ".",
            "a\nb.gguf",
            "a\x1b[2Jb.gguf",
            "a\0b.gguf",
            "\ud800.gguf",
        ),
        *("x" * 300 + ".gguf", "é" * 130 + ".gguf", "y" * 256 + "/a.gguf", "a\u202egguf.txt"),
    ],
    ids=ascii,
)
def test_a_name_that_no_cache_can_hold_is_left_out(hostile: type[_Hostile], name: str) -> None:
    hostile.listing = _listing((FILE, 5), (name, 5))
    assert list(read_repository(REPO).files) == [FILE]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"7", b"[" * 100_000, b'{"siblings": 7}', b"\xff"])
def test_a_listing_that_is_none(hostile: type[_Hostile], body: bytes) -> None:
    hostile.listing = body
    with pytest.raises(HubError, match=r"^org/name: [^\n]{1,400}$"):
        read_repository(REPO)


def test_too_many_files(hostile: type[_Hostile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MOST_FILES", 1000)
    hostile.listing = _listing(*((f"{number}.gguf", 1) for number in range(1001)))
    with pytest.raises(HubError, match=r"more than 1,000 files"):
        read_repository(REPO)


def test_messages_name_some_of_many_models() -> None:
    quants = model_files({f"a{number}-Q8_0.gguf": 1 for number in range(10_000)}).quants
    with pytest.raises(HubError, match=r"a\d+-Q8_0 and 9,960 more$") as refused:
        find_quant(HubName(REPO, "Q4_K_M"), quants)
    assert len(str(refused.value)) < 1000


def test_messages_name_fewer_models_of_long_names() -> None:
    quants = model_files({f"{'long' * 40}{number}.gguf": 1 for number in range(30)}).quants
    with pytest.raises(HubError, match=r"\.\.\. and 20 more$") as refused:
        find_quant(HubName(REPO, "Q4_K_M"), quants)
    assert len(str(refused.value)) < 1500


def test_files_of_one_name_in_two_folders(hostile: type[_Hostile], long_header: Path, tmp_path: Path) -> None:
    data = long_header.read_bytes()
    hostile.content = lambda start, stop: _part(data + b"\0", start, stop)
    repository = Repository(REPO, COMMIT, {"Q8_0/m.gguf": len(data), "Q4_0/m.gguf": len(data) + 1, "m.gguf": len(data)})
    copies = copy_headers(repository, list(repository.files), tmp_path)
    assert len(set(copies)) == 3
    assert [read_header(copy).size for copy in copies] == list(repository.files.values())


def _part(data: bytes, start: int, stop: int) -> tuple[int, dict[str, str], bytes]:
    return 206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, data[start:stop]


@pytest.mark.parametrize("content_range", ["bytes 0-9/99", "bytes */99", "", "bytes -5", f"bytes {'9' * 5000}-1/1"])
def test_other_bytes_than_asked_for(hostile: type[_Hostile], long_header: Path, content_range: str) -> None:
    data = long_header.read_bytes()
    hostile.content = lambda start, _: (206, {"Content-Range": content_range}, data[start : start + 10_000])
    with pytest.raises(HubError, match=r"other bytes of"):
        read_remote(Repository(REPO, COMMIT, {FILE: len(data)}), FILE)


def test_a_few_bytes_for_each_request(hostile: type[_Hostile], long_header: Path) -> None:
    data = long_header.read_bytes()
    hostile.content = lambda start, stop: _part(data, start, min(start + 3, stop))
    with pytest.raises(HubError, match=r"ends after 9 bytes"):
        read_remote(Repository(REPO, COMMIT, {FILE: len(data)}), FILE)
    assert hostile.asked == 3


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "http://[x", "http://a:99999999/", "/a"])
def test_redirections_to_nowhere(hostile: type[_Hostile], monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
    hostile.content = lambda *_: (302, {"Location": target}, b"")
    with pytest.raises(HubError, match=r"^org/name: [^\n]{1,400}$"):
        read_remote(Repository(REPO, COMMIT, {FILE: 100_000}), FILE)


def test_an_endless_answer_is_read_as_far_as_asked_for(hostile: type[_Hostile]) -> None:
    hostile.content = lambda start, _: (206, {"Content-Range": f"bytes {start}-9/9"}, bytes(1 << 26))
    with pytest.raises(GgufError, match=r"is not a GGUF file"):
        read_remote(Repository(REPO, COMMIT, {FILE: 100_000}), FILE)
