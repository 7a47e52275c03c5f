"""Texts of users: plain, JSON Lines, compressed; what is malformed is named with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.errors import TextError
from qwen35_gguf.evaluation.texts import files, tokenized
from qwen35_gguf.evaluation.texts.files import Chat, read_passages, read_text
from qwen35_gguf.evaluation.texts.tokenized import splitter

pytestmark = pytest.mark.unit

HELLO = {"role": "user", "content": "Hello"}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_plain_text_is_one_passage_as_it_is(tmp_path: Path) -> None:
    for name in ("a.txt", "a.md", "a", "a.py", "a.v2"):
        assert read_passages(written(tmp_path / name, '  {"text": 1}\n\nb \n')) == ['  {"text": 1}\n\nb \n']
    assert read_passages(written(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\r")) == ["one\ntwo\n"]
    assert read_passages(written(tmp_path / "a.txt.gz", gzip.compress(b"one"))) == ["one"]


def test_lines_of_json_are_passages_and_chats(tmp_path: Path) -> None:
    lines = [json.dumps(one) for one in ({"text": "a\nb", "id": 1}, {"messages": [HELLO], "tools": [{"x": 1}]})]
    content = f"{lines[0]}\n\n{lines[1]}\r\n"
    for path in (tmp_path / "a.jsonl", tmp_path / "A.NDJSON"):
        found = read_passages(written(path, content))
        assert found[0] == "a\nb"
        assert found[1] == Chat(f"{path}: line 3", [HELLO], [{"x": 1}])
    packed = written(tmp_path / "b.jsonl.gz", gzip.compress(content.encode()))
    assert read_passages(packed)[0] == "a\nb"
    assert read_text(written(tmp_path / "c.jsonl", f"{lines[0]}\n{lines[0]}\n")) == "a\nb\n\na\nb"
    with pytest.raises(TextError, match="line 3: has messages, for which a chat template is needed"):
        read_text(packed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("text", "is not JSON"),
        ("[1]", "is a list; write an object with either a text or messages"),
        ("3", "is a number; write"),
        ("null", "is null"),
        ("{}", "is an object of nothing; write"),
        ('{"prompt": "a", "completion": "b"}', "is an object of 'prompt', 'completion'; write"),
        ('{"text": "a", "messages": []}', "has a text and messages; write"),
        ('{"text": 5}', "text is a number; must be a string"),
        ('{"text": null}', "text is null; must be a string"),
        ('{"messages": "Hello"}', "messages: is not a list"),
        ('{"messages": []}', "messages: is not a list"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "the role 'robot' is unknown"),
        ('{"messages": [{"role": "user", "content": 5}]}', "content is neither text nor a list"),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": 5}', "tools is a number; must be a list of"),
        ('{"messages": [{"role": "user", "content": [{"type": "image", "image": "a"}]}]}', "has an image"),
        ("[" * 100_000, "is not JSON"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path / "a.jsonl", f'{{"text": "fine"}}\n\n{line}\n')
    with pytest.raises(TextError) as caught:
        read_passages(path)
    assert str(caught.value).startswith(f"{path}: line 3: ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", "is one JSON document"),
        ("a.json.gz", gzip.compress(b"[]"), "is one JSON document"),
        ("a.csv", "a,b", "is a table"),
        ("a.TSV", "a,b", "is a table"),
        ("a.parquet", "PAR1", "is a table in binary"),
        ("a.jsonl.zst", "x", "is compressed; expand it"),
        ("a.zip", "x", "is compressed"),
        ("a.pdf", "x", "is a document"),
        ("a.gguf", "GGUF", "holds weights"),
        ("a.txt.gz", "not gzip", "cannot be expanded"),
        ("a.txt.gz", gzip.compress(b"some text")[:-9], "cannot be expanded"),
        ("a.txt", b"a\0b", "is not text: it has zero bytes"),
        ("a.txt", b"\xff", "is not UTF-8 text"),
        ("a.txt", " \n ", "is empty"),
        ("a.jsonl", "\n\n", "is empty"),
        ("a.jsonl", '{"text": " "}', "is empty"),
        ("none.txt", None, "No such file"),
    ],
)
def test_what_is_not_read(tmp_path: Path, name: str, content: str | bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        written(path, content)
    with pytest.raises(TextError, match=message) as caught:
        read_passages(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@given(st.binary(max_size=300))
def test_any_bytes_are_passages_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = written(tmp_path_factory.getbasetemp() / "any.jsonl", content)
    try:
        assert read_passages(path)
    except TextError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - most, but not all of them raise


class Vocabulary:
    """What a splitter needs of a model: it counts characters."""

    bos_token = eos_token = ""

    def __init__(self, template: str | None) -> None:
        self.vocabulary, self._template = self, template

    def chat_template(self) -> str | None:
        return self._template

    def tokenize(self, text: str) -> Any:
        return text


def test_several_files_are_read_in_order(tmp_path: Path) -> None:
    one, two = written(tmp_path / "1.txt", "one\n"), written(tmp_path / "2.txt", "two\n")
    model: Any = Vocabulary(None)
    assert splitter([one, two], "")(model) == "one\n\n\ntwo\n"
    assert splitter([two, one], "")(model) == "two\n\n\none\n"
    assert splitter(one, "")(model) == "one\n"


def test_chats_are_rendered_by_the_template_of_the_model(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", json.dumps({"messages": [HELLO]}) + '\n{"text": "after"}\n')
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ tools }}{{ add_generation_prompt }}"
    model: Any = Vocabulary(template)
    assert splitter([path], "")(model) == "<user>HelloNoneFalse\n\nafter"
    with pytest.raises(TextError, match="line 1: has messages, but the model has no chat template"):
        splitter([path], "")(Vocabulary(None))  # type: ignore[arg-type]
    refusing: Any = Vocabulary("{{ raise_exception('No.') }}")
    with pytest.raises(TextError, match=r"line 1: chat template: refuses the messages \(No\.\)"):
        splitter([path], "")(refusing)
    assert tokenized._renderer(refusing) is None


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_text_without_end_is_not_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1 << 20)
    within, beyond = b"a" * (1 << 20), b"a" * ((1 << 20) + 1)
    path = written(tmp_path / name, gzip.compress(within) if name.endswith(".gz") else within)
    assert len(read_text(path)) == 1 << 20
    written(path, gzip.compress(beyond) if name.endswith(".gz") else beyond)
    with pytest.raises(TextError, match="has more than 1 MiB of text; name a part of it"):
        read_text(path)
