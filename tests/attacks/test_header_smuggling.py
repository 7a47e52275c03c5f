"""A body that a proxy and this server would end at different places hides a second request: it is never answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

HIDDEN = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"0\r\n\r\n"


def request(headers: bytes, body: bytes) -> bytes:
    return START + headers + b"\r\n" + body


AMBIGUOUS = {
    "length and chunks": request(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", CHUNKED + HIDDEN),
    "chunks and length": request(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", CHUNKED + HIDDEN),
    "two lengths": request(b"Content-Length: 0\r\nContent-Length: 44\r\n", HIDDEN),
    "lengths in a list": request(b"Content-Length: 0, 44\r\n", HIDDEN),
    "a signed length": request(b"Content-Length: +0\r\n", HIDDEN),
    "a negative length": request(b"Content-Length: -1\r\n", HIDDEN),
    "a length in hexadecimal": request(b"Content-Length: 0x0\r\n", HIDDEN),
    "a length with a space inside": request(b"Content-Length: 0 0\r\n", HIDDEN),
    "an unknown coding": request(b"Transfer-Encoding: xchunked\r\n", CHUNKED + HIDDEN),
    "chunks that are not last": request(b"Transfer-Encoding: chunked, identity\r\n", CHUNKED + HIDDEN),
    "chunks twice": request(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", CHUNKED + HIDDEN),
    "a space before the colon": request(b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n", HIDDEN),
    "a NUL in a value": request(b"X: a\0b\r\nContent-Length: 0\r\n", HIDDEN),
    "a bare carriage return": request(b"X: a\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n", HIDDEN),
    "a chunk size with a sign": request(b"Transfer-Encoding: chunked\r\n", b"+0\r\n\r\n" + HIDDEN),
    "a chunk size that overflows": request(b"Transfer-Encoding: chunked\r\n", b"f" * 17 + b"\r\n" + HIDDEN),
    "a chunk without its line end": request(b"Transfer-Encoding: chunked\r\n", b"1\r\nZ" + CHUNKED + HIDDEN),
}


@pytest.mark.parametrize("data", AMBIGUOUS.values(), ids=list(AMBIGUOUS))
def test_a_hidden_request_is_not_answered(data: bytes, send: Callable[[bytes], bytes]) -> None:
    answer = send(data)
    assert b'"object":"list"' not in answer.replace(b" ", b"")
    assert answer.count(b"HTTP/1.1 200") == 0


def test_what_follows_a_refused_body_is_not_a_request(send: Callable[[bytes], bytes]) -> None:
    """A refused request is answered before its body was read: what is left of that must not be taken for a request."""
    for headers in (b"Host: evil.example\r\n", b"Host: localhost\r\nOrigin: https://evil.example\r\n"):
        start = b"POST /v1/chat/completions HTTP/1.1\r\n" + headers
        answer = send(start + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 403")


def test_a_request_cannot_add_to_the_headers_of_an_answer(send: Callable[[bytes], bytes]) -> None:
    for path in (b"/v1/models/x%0d%0aSet-Cookie:%20a=b", b"/page/x%0d%0aSet-Cookie:%20a=b", b"/%0d%0aSet-Cookie:a=b"):
        answer = send(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert b"set-cookie" not in head
    answer = send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost%0d%0aX: y\r\n\r\n")
    assert b"\r\nx: y" not in answer.lower()


def test_headers_beyond_any_need_are_refused(send: Callable[[bytes], bytes]) -> None:
    many = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 100) for number in range(5000))
    answer = send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + many + b"\r\n")
    assert not answer or answer.split(b" ", 2)[1] in (b"400", b"431", b"200")
