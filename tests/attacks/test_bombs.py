"""Small requests that would become large: compressed, nested, repeated, in pixels. Each is refused or done in bounds.

No time is asserted: each request has the timeout of its connection, and afterwards the server answers another one.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from typing import Any

import pytest

from inputs.chat_requests import HELLO
from inputs.live_server import LiveServer

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
UNPACKED = b'{"messages": [' + b" " * (16 << 20) + b"]}"


def ask(server: LiveServer, **fields: Any) -> Any:
    return server.post(CHAT, {"messages": HELLO, "max_tokens": 4, **fields})


def refused(answer: Any) -> bool:
    return answer.status in (400, 413) and "error" in answer.json


# ---- bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_compressed_bodies_are_not_unpacked(coding: str, server: LiveServer) -> None:
    packed = gzip.compress(UNPACKED)
    packed = gzip.compress(packed) if "," in coding else zlib.compress(packed) if coding == "deflate" else packed
    assert len(packed) < 1 << 20
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    assert refused(server.ask("POST", CHAT, packed, **headers))


@pytest.mark.parametrize(
    "text",
    [
        '{"messages":' + "[" * 200_000,
        '{"messages":' + '{"a":' * 200_000,
        '{"messages": [], "max_tokens": ' + "9" * 100_000 + "}",
        '{"messages": [], "temperature": 1e' + "9" * 5000 + "}",
        '{"messages": [], "temperature": NaN}',
        '{"messages": [], "seed": -1e308}',
        '{"messages": "' + "\\ud800" * 1000 + '"}',
        "{" + ",".join(f'"k{number}": 0' for number in range(200_000)) + "}",
        "[" * 100,
        "",
    ],
    ids=lambda text: text[:30],
)
def test_json_that_is_deep_or_huge(text: str, server: LiveServer) -> None:
    assert refused(server.ask("POST", CHAT, text))


# ---- images ------------------------------------------------------------------------------------------------------


def image_message(data: bytes, kind: str = "png") -> list[dict[str, Any]]:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]}
    ]


def png(width: int, height: int) -> bytes:
    """A PNG whose header promises any size, with the compressed rows of a much smaller one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (10**6, 1), (1, 10**6), (0, 0)]
)
def test_images_of_many_pixels(width: int, height: int, server: LiveServer) -> None:
    assert refused(ask(server, messages=image_message(png(width, height))))


def test_texts_of_images_that_unpack(server: LiveServer) -> None:
    """A compressed comment of 64 MiB in an image of a pixel."""
    from PIL import Image, PngImagePlugin

    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "a" * (64 << 20), zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "PNG", pnginfo=texts)
    assert ask(server, messages=image_message(buffer.getvalue())).status in (200, 400, 413)


def test_more_images_than_a_conversation_may_have(server: LiveServer) -> None:
    part = image_message(png(8, 8))[0]["content"][0]
    assert refused(ask(server, messages=[{"role": "user", "content": [part] * 1000}]))


def test_containers_inside_of_containers(server: LiveServer) -> None:
    """Formats that may be more than an image: none of them is decoded as one."""
    svg = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;">]><svg>&c;</svg>'
    for kind, data in (
        ("svg+xml", svg),
        ("pdf", b"%PDF-1.4"),
        ("x-eps", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
        ("heic", b"ftypheic"),
    ):
        assert refused(ask(server, messages=image_message(data, kind)))


# ---- grammars, schemas, regular expressions ----------------------------------------------------------------------


def schema_form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


GRAMMARS = {
    "rules that double": {
        "type": "gbnf",
        "grammar": "\n".join([f"r{n} ::= r{n + 1} r{n + 1}" for n in range(60)] + ['r60 ::= "a"', "root ::= r0"]),
    },
    "left recursion": {"type": "gbnf", "grammar": "root ::= root root | root"},
    "a rule of itself": {"type": "gbnf", "grammar": "root ::= root"},
    "empty repetitions": {"type": "gbnf", "grammar": 'root ::= ((""*)*)* "a"'},
    "counts": {"type": "gbnf", "grammar": 'root ::= (("a"{1000}){1000}){1000}'},
    "deep parentheses": {"type": "gbnf", "grammar": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000},
    "a long alternative": {"type": "gbnf", "grammar": "root ::= " + " | ".join(f'"{n}"' for n in range(20_000))},
    "a huge grammar": {"type": "gbnf", "grammar": 'root ::= "' + "a" * (10 << 20) + '"'},
    "regex counts": {"type": "regex", "regex": "((a{1000}){1000}){1000}"},
    "regex stars": {"type": "regex", "regex": "(((a*)*)*)*b"},
    "regex alternatives": {"type": "regex", "regex": "(a|a|aa)*" * 100},
    "regex of classes": {"type": "regex", "regex": r"[\s\S]{0,100000}x[\s\S]{0,100000}"},
    "regex too long": {"type": "regex", "regex": "a" * 100_000},
    "lark of itself": {"type": "lark", "lark": "start: start start | start"},
    "deep schema": schema_form(nested(200)),
    "schema of itself": schema_form({"$ref": "#"}),
    "schemas that double": schema_form(
        {
            "$defs": {
                f"d{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 2, "minItems": 2}
                for n in range(40)
            }
            | {"d40": {"type": "null"}},
            "$ref": "#/$defs/d0",
        }
    ),
    "items without end": schema_form({"type": "array", "items": {"type": "integer"}, "minItems": 10**9}),
    "letters without end": schema_form({"type": "string", "minLength": 10**9}),
    "a large enum": schema_form({"enum": [f"value {n}" for n in range(100_000)]}),
    "many properties": schema_form(
        {
            "type": "object",
            "properties": {f"p{n}": {"type": "string"} for n in range(5000)},
            "additionalProperties": False,
        }
    ),
    "many optional properties": schema_form(
        {
            "type": "object",
            "properties": {f"p{n}": {"type": "string"} for n in range(500)},
            "additionalProperties": False,
        }
    ),
    "alternatives that double": schema_form(
        {"allOf": [{"anyOf": [{"minimum": n}, {"maximum": n + 100}]} for n in range(60)], "type": "integer"}
    ),
    "a pattern in a schema": schema_form({"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}),
    "a huge number": schema_form({"type": "integer", "minimum": 10**400, "maximum": 10**400 + 1}),
    "a fraction": schema_form({"type": "number", "multipleOf": 1e-300}),
}


@pytest.mark.parametrize("form", GRAMMARS.values(), ids=list(GRAMMARS))
def test_rules_that_grow(form: dict[str, Any], server: LiveServer) -> None:
    answer = ask(server, response_format=form)
    assert answer.status in (200, 400, 413), answer.body
    assert answer.status == 200 or "\n" not in answer.json["error"]["message"]


def test_tools_with_schemas_that_grow(server: LiveServer) -> None:
    tools = [{"type": "function", "function": {"name": f"f{n}", "parameters": nested(30)}} for n in range(200)]
    assert refused(ask(server, tools=tools))


# ---- floods ------------------------------------------------------------------------------------------------------


def test_prompts_beyond_the_context(server: LiveServer) -> None:
    for content in ("word " * 200_000, "\u0bcc" * 300_000, "a" * 1_000_000, "<|im_end|>" * 50_000, "\n" * 500_000):
        answer = ask(server, messages=[{"role": "user", "content": content}])
        assert answer.status == 400
        assert answer.json["error"]["code"] == "context_length_exceeded"


def test_more_of_everything_than_there_may_be(server: LiveServer) -> None:
    for fields in (
        {"n": 10_000},
        {"messages": HELLO * 10_000},
        {"stop": [f"x{n}" for n in range(65)]},
        {"stop": ["x"] * 1_000_000},
        {"logit_bias": {str(n): 1 for n in range(400_000)}},
        {"logit_bias": {"9" * 5000: 1}},
        {"logit_bias": {"1": 10**400}},
        {"top_logprobs": 10**6, "logprobs": True},
        {"max_tokens": -1},
        {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(50_000)]},
    ):
        answer = ask(server, **fields)
        assert answer.status in (400, 413), (list(fields), answer.body[:200])


def test_an_answer_ends_at_the_context(server: LiveServer) -> None:
    answer = ask(server, max_tokens=2**31, temperature=0, stop_loops=False)
    assert answer.status in (200, 400)


def test_tokens_that_are_not_there(server: LiveServer) -> None:
    for prompt in ([2**40], [-1], [0] * 1_000_000, [[0]] * 10_000, [None], [1.5]):
        assert refused(server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1}))
    assert server.post("/detokenize", {"tokens": [10**9]}).status == 400


def test_markdown_that_grows(server: LiveServer) -> None:
    """What the page lets the server render."""
    texts = ("*" * 50_000, "[" * 50_000, "> " * 20_000 + "a", "`" * 49_999, "![" * 20_000 + "](" * 20_000, "<" * 50_000)
    for text in (*texts, "|" * 50_000 + "\n" + "|-" * 20_000, "$" * 50_001, "- " * 20_000, "&#x" + "f" * 50_000):
        answer = server.post("/page/render", {"texts": [text]})
        assert answer.status == 200
        assert json.loads(answer.body)["texts"]
    assert server.post("/page/render", {"texts": ["a"] * 10_000}).status == 413
