"""Bodies are read as Python's json reads them, but for what no text or number is; large ones in another way."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

pytest.importorskip("starlette")

from qwen35_gguf.server import json_body
from qwen35_gguf.server.api_error import ApiError
from qwen35_gguf.server.request_limits import check_texts
from qwen35_gguf.server.settings import RequestLimits, ServerSettings

pytestmark = pytest.mark.unit

TEXTS = ("", "a", "é", "\0", "😀", '"', "\\", "\u2028", "\ufeff", "a\n")


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(6 if depth < 4 else 4)
    if kind == 0:
        return chance.choice(TEXTS) * chance.randrange(3)
    if kind == 1:
        return chance.randrange(-(10**30), 10**30) if chance.random() < 0.2 else chance.randrange(-5, 5)
    if kind == 2:
        return chance.uniform(-1e300, 1e300)
    if kind == 3:
        return chance.choice((True, False, None))
    several = [value(chance, depth + 1) for _ in range(chance.randrange(6))]
    return several if kind == 4 else {f"{at}{chance.choice(TEXTS)}": one for at, one in enumerate(several)}


@pytest.mark.parametrize("size", [1, json_body.LARGE])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_values_are_those_of_json(size: int, encoding: str) -> None:
    chance = random.Random(size)
    for number in range(40):
        wanted = {"value": value(chance), "filler": "x" * size}
        body = json.dumps(wanted, ensure_ascii=bool(number % 2)).encode(encoding)
        assert json_body._object(body, ServerSettings()) == wanted == json.loads(body)


@pytest.mark.parametrize("filler", ["", "x" * json_body.LARGE])
@pytest.mark.parametrize(
    "text",
    [
        r'"\ud800"', r'{"\udfff": 1}', r'["a", [{"b": "\uD83D "}]]',
         r'"\udc00\ud800"', "1e999", "-1e400", "1" + "0" * 400 + ".0",
        "NaN", "Infinity", "-Infinity", "9" * 5000, "[" * 100_000, "{", "'a'", "[1,]", "\ufeff1", '"\n"',
    ],
    ids=lambda text: text[:12] or "none",
)  # fmt: skip
def test_what_is_no_text_and_no_number(text: str, filler: str) -> None:
    with pytest.raises(ApiError, match="body: is not JSON") as caught:
        json_body._object(f'{{"filler": "{filler}", "a": {text}}}'.encode(), ServerSettings())
    assert caught.value.status == 400
    assert len(str(caught.value)) < 200


def test_bytes_that_are_no_text() -> None:
    for body in (b"\xff", b'{"a": "\xed\xa0\x80"}', b'{"a": "\xc0\xaf"}', b""):
        with pytest.raises(ApiError, match="body: is not JSON"):
            json_body._object(body, ServerSettings())


def test_pairs_of_surrogates_are_characters() -> None:
    assert json_body._object(rb'{"\ud83d\ude00": ["\uD83D\uDE00"]}', ServerSettings()) == {"😀": ["😀"]}


def test_texts_are_counted_and_images_are_not() -> None:
    limits = RequestLimits(text_bytes=20)
    long = "a" * 21
    for body in (
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": long}}]}]},
        {"messages": [{"content": [{"type": "image", "source": {"type": "base64", "data": long}}]}]},
        {"input": [{"content": [{"type": "input_image", "image_url": long}]}]},
        {"messages": [{"content": [{"image": long}]}]},
    ):
        check_texts(body, RequestLimits(text_bytes=60))
        with pytest.raises(ApiError):
            check_texts({"more": long, **body}, limits)
    for body in (
        {"content": long},
        {"é" * 11: 1},
        {"prompt": ["b", long]},
        {"messages": [{"content": [{"type": "document", "source": {"type": "text", "data": long}}]}]},
    ):
        with pytest.raises(ApiError, match="21|20 bytes") as caught:
            check_texts(body, limits)
        assert caught.value.status == 413
