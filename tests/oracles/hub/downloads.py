"""What of the Hub's HTTP API downloads need, in memory, and the ways in which it can fail.

Sources: the requests that huggingface_hub sends; https://huggingface.co/docs/hub/api. Large files are answered as the
Hub does, with a redirection to another address, which knows ranges of bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

TAG = "v1"  # of the same commit
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".gguf",)
REFUSALS = {"gated": (401, "GatedRepo"), "private": (401, "RepoNotFound"), "broken": (418, "")}


class DownloadHub(ThreadingHTTPServer):
    """The server.

    Attributes:
        files: content by path, by repository; a repository's name may be one of REFUSALS, which is what it answers.
        breaks: bytes after which the next answers with a file's content end, the last first.
        knows_ranges: large files are handed out in ranges.
        ranges: the first and the last byte of each answer with a large file's content, by path.
        asked: the paths of all requests.

    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.files = files
        self.breaks: list[int] = []
        self.knows_ranges = True
        self.ranges: dict[str, list[tuple[int, int]]] = {}
        self.asked: list[str] = []

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that go away."""

    def sent(self, path: str) -> int:
        """Return how many bytes of a large file were sent in total."""
        return sum(stop + 1 - start for start, stop in self.ranges.get(path, []))


class _Requests(BaseHTTPRequestHandler):
    server: DownloadHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server
        hub.asked.append(self.path)
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "cdn":
            self._content("/".join(parts[1:3]), "/".join(parts[3:]))
            return
        api = parts[:2] == ["api", "models"]
        repo, what = ("/".join(parts[2:4]), parts[4:]) if api else ("/".join(parts[:2]), parts[2:])
        status, code = REFUSALS.get(repo.rpartition("/")[2], (404, "RepoNotFound"))
        if repo not in hub.files:
            self._answer(status, b"", {"X-Error-Code": code} if code else {})
        elif len(what) > 1 and what[1] not in ("main", TAG, COMMIT):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif what[:1] == ["tree"]:
            self._json([self._entry(repo, name) for name in hub.files[repo]])
        elif api:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in hub.files[repo].items()]
            self._json({"id": repo, "sha": COMMIT, "siblings": siblings})
        else:
            self._file(repo, "/".join(what[2:]))

    def _entry(self, repo: str, name: str) -> dict[str, object]:
        data = self.server.files[repo][name]
        return {"type": "file", "path": name, "size": len(data), "oid": _digest(data)[:40]}

    def _file(self, repo: str, name: str) -> None:
        """Answer with a file, or with where it is."""
        data = self.server.files[repo].get(name)
        if data is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"ETag": f'"{_digest(data)[:40]}"', "X-Repo-Commit": COMMIT}
        if not name.endswith(LARGE):
            self._answer(200, data, headers)
            return
        port = self.server.server_address[1]
        linked = {"X-Linked-Etag": f'"{_digest(data)}"', "X-Linked-Size": str(len(data))}
        self._answer(302, b"", headers | linked | {"Location": f"http://localhost:{port}/cdn/{repo}/{name}"})

    def _content(self, repo: str, name: str) -> None:
        """Answer with a range of a large file, which may end too early."""
        hub, data = self.server, self.server.files[repo][name]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop, status, headers = 0, len(data), 200, {"ETag": f'"{_digest(data)}"'}
        if asked and hub.knows_ranges:
            start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
            status, headers = 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        stop_after = hub.breaks.pop() if hub.breaks and self.command == "GET" else None
        body = data[start:stop]
        self._answer(status, body if stop_after is None else body[:stop_after], headers, announced=len(body))
        if self.command == "GET":
            hub.ranges.setdefault(name, []).append(
                (start, start + len(body if stop_after is None else body[:stop_after]) - 1)
            )
        if stop_after is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], announced: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def serve_downloads(files: Mapping[str, Mapping[str, bytes]]) -> Iterator[DownloadHub]:
    """Run a Hub for a while."""
    with DownloadHub(files) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


@contextmanager
def unreachable() -> Iterator[str]:
    """Give an address that refuses connections."""
    with socket.socket() as closed:  # bound but not listening
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}"


def point_to(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Let huggingface_hub ask another address."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


def own_cache(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """Let huggingface_hub use a cache of its own, without login and progress bars."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, f"{folder}/cache", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", f"{folder}/no-token")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
