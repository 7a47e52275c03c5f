"""What of the Hub's HTTP API an upload needs, in memory, and the ways in which it can fail.

Sources: the requests that huggingface_hub sends, and the batch API of Git LFS, which leaves out where to upload what is
there already.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

TOKEN = "hf_secret"
NAME = "user/name"


class Hub(http.server.ThreadingHTTPServer):
    """The server, with one repository.

    Attributes:
        exists: the repository was made before, and is public.
        writable: the token may write to it, and make it.
        room: large files that are taken; None: all.
        fault: what happens to the others: the answer is 500, or the line goes dead in the middle.
        stuck: commits are answered with 503.
        created: what was asked for when the repository was made.
        files: what was committed, by path.
        objects: large files that arrived, by SHA-256.
        sent: how often each of these was sent to the end, by SHA-256.

    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.exists, self.writable = False, True
        self.room: int | None = None
        self.fault: Literal["500", "dead line"] = "500"
        self.stuck = False
        self.created: dict[str, Any] | None = None
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.sent: Counter[str] = Counter()
        self.lock = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that go away."""


class _Requests(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        hub, path, raw = self.server, self.path.split("?")[0], self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid credentials in Authorization header"}, 401)
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(raw))
        elif not hub.writable:
            self._answer({"error": f"Forbidden: you must have write rights on {NAME}"}, 403)
        elif path == f"/api/models/{NAME}/preupload/main":
            self._answer({"files": [_mode(file["path"]) for file in json.loads(raw)["files"]]})
        elif path == f"/{NAME}.git/info/lfs/objects/batch":
            self._answer({"transfer": "basic", "objects": [self._object(one) for one in json.loads(raw)["objects"]]})
        elif path == f"/api/models/{NAME}/commit/main" and hub.stuck:
            self._answer({"error": "Service Unavailable"}, 503)
        elif path == f"/api/models/{NAME}/commit/main":
            self._commit(raw.decode().splitlines())
        else:
            self._answer({"error": f"unknown {path}"}, 404)

    def do_PUT(self) -> None:
        hub, digest = self.server, self.path.split("/")[-1].split("?")[0]
        with hub.lock:
            refused = hub.room is not None and len(hub.objects) >= hub.room
            if not refused:
                hub.objects[digest] = b""  # its place is taken
        if refused and hub.fault == "dead line":
            self.rfile.read(1000)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        raw = self._body()
        if refused:
            self._answer({"error": "Internal Error"}, 500)
            return
        assert hashlib.sha256(raw).hexdigest() == digest
        hub.objects[digest] = raw
        hub.sent[digest] += 1
        self._answer({})

    def do_GET(self) -> None:
        hub = self.server
        if hub.exists or hub.created is not None or not self.path.startswith("/api/models/"):
            self._answer({"id": NAME, "sha": "0" * 40, "private": not hub.exists, "siblings": [], "name": "user"})
        else:
            self._answer({"error": "Repository not found"}, 404, "RepoNotFound")

    def _create(self, asked: dict[str, Any]) -> None:
        hub = self.server
        if not hub.writable:
            self._answer({"error": 'You don\'t have the rights to create a model under the namespace "user"'}, 403)
        elif hub.exists or hub.created is not None:
            self._answer({"error": "You already created this model repo", "url": f"{hub.address}/{NAME}"}, 409)
        else:
            hub.created = asked
            self._answer({"url": f"{hub.address}/{NAME}", "name": NAME})

    def _object(self, asked: dict[str, Any]) -> dict[str, Any]:
        hub, digest = self.server, asked["oid"]
        known = {"oid": digest, "size": asked["size"]}
        # An address as that of a bucket: it is signed, and whoever has it can write.
        address = f"{hub.address}/lfs/{digest}?X-Amz-Signature=signed"
        return known if hub.objects.get(digest) else known | {"actions": {"upload": {"href": address}}}

    def _commit(self, lines: list[str]) -> None:
        hub = self.server
        for item in map(json.loads, lines):
            value = item["value"]
            if item["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                hub.files[value["path"]] = hub.objects[value["oid"]]
        self._answer({"commitUrl": f"{hub.address}/{NAME}/commit/1", "commitOid": "1" * 40, "success": True})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: dict[str, Any], status: int = 200, code: str = "") -> None:
        raw = json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
        headers |= {"X-Error-Message": content["error"]} if "error" in content else {}
        headers |= {"X-Error-Code": code} if code else {}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


def _mode(path: str) -> dict[str, Any]:
    return {"path": path, "uploadMode": "lfs" if path.endswith(".gguf") else "regular", "shouldIgnore": False}


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub for a while."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
