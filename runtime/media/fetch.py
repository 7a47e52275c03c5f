"""Download over http(s) within limits of size and time, and from private addresses only if allowed.

Every connection, also after a redirect, goes to an address that was checked after it was resolved: a name cannot point
to one address when it is checked and to another when it is connected. Proxies of the environment are not used, because
behind one there would be no address to check.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from qwen35_gguf.errors import MediaError

CHUNK_BYTES = 1 << 16
REASON = 200  # characters of it in a message: exceptions repeat a URL, servers say anything
MAX_REDIRECTS = 5
USER_AGENT = "qwen35-gguf"
NAT64 = ipaddress.ip_network("64:ff9b::/96")
IPV4_COMPATIBLE = ipaddress.ip_network("::/96")  # ::127.0.0.1, deprecated

Opened = Callable[[socket.socket], None]


def is_public(address: str) -> bool:
    """Report whether an IP address is reachable from the whole internet, also an IPv4 address inside an IPv6 one."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and (ip in NAT64 or ip in IPV4_COMPATIBLE):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast


def _connect(host: str, port: int, timeout: float | None, allow_private: bool) -> socket.socket:
    """Connect to the first address of `host` that answers; all of its addresses must be allowed."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not allow_private:
        for *_, address in found:
            if not is_public(str(address[0])):
                raise MediaError(
                    f"{host}: {address[0]} is a private address; use a public one, or allow_private=True for your own"
                )
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout)
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure or OSError("has no address")


def _opener(allow_private: bool, https_only: bool, opened: Opened) -> urllib.request.OpenerDirector:
    """Make an opener for http and https whose connections are checked; each new socket is given to `opened`."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = _connect(self.host, self.port, self.timeout, allow_private)
            opened(self.sock)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            plain = _connect(self.host, self.port, self.timeout, allow_private)
            opened(plain)
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
            opened(self.sock)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, request)

    class Redirects(urllib.request.HTTPRedirectHandler):
        max_redirections = MAX_REDIRECTS

    director = urllib.request.OpenerDirector()
    for handler in (
        *(() if https_only else (PlainHandler(),)),
        SecureHandler(),
        Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        director.add_handler(handler)
    return director


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[Opened]:
    """Yield a function that takes sockets; all of them are shut down after `seconds`, whatever they are doing.

    A socket's own timeout starts again at every byte, so that a slow server could keep a connection open for ever.
    """
    sockets: list[socket.socket] = []
    lock = threading.Lock()

    def cut() -> None:
        with lock:
            for connection in sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def opened(connection: socket.socket) -> None:
        with lock:
            sockets.append(connection)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield opened
    finally:
        timer.cancel()


def scheme_of(url: str) -> str:
    """Return what stands before `://`, in small letters. Raises MediaError if the text cannot be a URL."""
    try:
        return urlsplit(url).scheme.lower()
    except ValueError as error:
        raise MediaError(f"{shorten(url)}: is not a URL ({shorten(str(error))}); check it") from None


def fetch(url: str, *, max_bytes: int, timeout: float, allow_private: bool = False, https_only: bool = False) -> bytes:
    """Download `url` (http or https) and return the body.

    `timeout` is the total in seconds, redirects included, but without resolving the name.

    Raises:
        MediaError: the URL is not http(s), leads to a private address, answers with an error, is larger than
            `max_bytes`, or takes longer than `timeout`.

    """
    scheme = scheme_of(url)
    if scheme not in ("http", "https"):
        raise MediaError(f"{shorten(url)}: only http and https are downloaded; give a path or bytes instead")
    if https_only and scheme != "https":
        raise MediaError(f"{shorten(url)}: only https is downloaded; give an https URL or a data URI")
    end = time.monotonic() + timeout
    try:
        with _deadline(timeout) as opened:
            request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
            with _opener(allow_private, https_only, opened).open(request, timeout=timeout) as response:
                return _body(response, url, max_bytes, timeout, end)
    except MediaError as error:
        raise MediaError(f"{shorten(url)}: {error}") from None
    except urllib.error.HTTPError as error:
        error.close()
        answer = f"{error.code} {shorten(str(error.reason), REASON)}"
        raise MediaError(f"{shorten(url)}: the server answered {answer}; check the URL") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= end:
            raise MediaError(_too_slow(url, timeout)) from None
        reason = shorten(str(error.reason if isinstance(error, urllib.error.URLError) else error), REASON)
        raise MediaError(f"{shorten(url)}: cannot be downloaded ({reason}); check the URL and the network") from None


def _body(response: Any, url: str, max_bytes: int, timeout: float, end: float) -> bytes:
    too_large = f"larger than {max_bytes:,} bytes; use a smaller file or raise max_bytes"
    length = response.headers.get("Content-Length")
    if length is not None and length.isdecimal() and int(length) > max_bytes:
        raise MediaError(too_large)
    parts: list[bytes] = []
    size = 0
    while True:
        part: bytes = response.read1(CHUNK_BYTES)
        if time.monotonic() >= end:
            raise MediaError(_too_slow(url, timeout).partition(": ")[2])
        if not part:
            break
        size += len(part)
        if size > max_bytes:
            raise MediaError(too_large)
        parts.append(part)
    if length is not None and length.isdecimal() and size < int(length):
        raise MediaError(f"the download broke off after {size:,} of {int(length):,} bytes; try again")
    return b"".join(parts)


def _too_slow(url: str, timeout: float) -> str:
    return f"{shorten(url)}: took longer than {timeout:g} s; try again, or raise the timeout"


def shorten(text: str, limit: int = 80) -> str:
    """Shorten a long URL for a message, and keep it on one line."""
    line = "".join(character if character.isprintable() else "?" for character in text[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"
