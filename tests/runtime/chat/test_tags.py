"""Tags in the text of tokens; a file whose tags are control tokens, as other converters make it, answers as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from hypothesis import given
from hypothesis import strategies as st

from oracles.paths import TINY
from qwen35_gguf.architecture.tags import TAGS
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.release import metadata_edit
from qwen35_gguf.runtime.chat.tags import MARKS, TagDecoder, marked, spelled

TYPES, TOKENS = "tokenizer.ggml.token_type", "tokenizer.ggml.tokens"


@pytest.mark.unit
@given(st.text(), st.sampled_from(TAGS), st.text())
def test_marks_are_no_text(before: str, tag: str, after: str) -> None:
    assert spelled(before + MARKS[tag] + after) == before + tag + after
    assert spelled(marked(before + tag + after)) == before + tag + after
    decoder = TagDecoder({1: tag})
    others = f"{before}{tag}{after}".encode()
    assert MARKS[tag] not in "".join(decoder.feed(0, bytes([byte])) for byte in others) + decoder.finish()


@pytest.mark.unit
@given(st.lists(st.sampled_from([*TAGS, "<", "</", "<th", "ink>", " ", "a", "é"]), max_size=8).map("".join))
def test_spelled_tags_count_where_there_is_no_token(text: str) -> None:
    decoder = TagDecoder({})
    found = "".join(decoder.feed(0, bytes([byte])) for byte in text.encode()) + decoder.finish()
    assert found == marked(text)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The trained model, and a copy of it whose tags are control tokens."""
    from qwen35_gguf.convert import hf_to_gguf

    folder = tmp_path_factory.mktemp("tags")
    ours = hf_to_gguf.convert(TINY, "Q8_0", folder, vision=False)[0]
    other = folder / "control.gguf"
    other.write_bytes(ours.read_bytes())
    header = read_header(other)
    pairs = zip(header.value(TOKENS), header.value(TYPES), strict=True)
    types = [int(TokenType.CONTROL) if text in TAGS else kind for text, kind in pairs]
    entry = header.find(TYPES)
    assert entry is not None
    metadata_edit.change(other, replace=[KeyValue.of(TYPES, types, entry.type, entry.element)])
    return ours, other


TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]},
    },
}


def test_the_type_of_tags_changes_no_answer(both: tuple[Path, Path]) -> None:
    from qwen35_gguf.runtime import Qwen35

    question = [{"role": "user", "content": "What is the capital of France?"}]
    found = []
    for file in both:
        with Qwen35(file, n_ctx=2048, n_threads=1) as model:
            thought = model.chat(question, thinking=True, temperature=0, max_tokens=80).choices[0].message
            chunks = model.chat(question, thinking=True, temperature=0, max_tokens=80, stream=True)
            deltas = [chunk.choices[0].delta for chunk in chunks]
            many = model.generate_many([question, question], thinking=True, temperature=0, max_tokens=80)
            raw = model.generate("<|im_start|>assistant\n<think>\n", temperature=0, max_tokens=60).text
            call = model.chat(question, tools=[TOOL], tool_choice="required", temperature=0, max_tokens=200)
        assert "".join(delta.content or "" for delta in deltas) == thought.content
        assert "".join(delta.reasoning_content or "" for delta in deltas) == thought.reasoning_content
        functions = [made.function for made in call.choices[0].message.tool_calls or ()]
        found.append((thought, [answer.text for answer in many], raw, functions))
    assert found[0] == found[1]
    thought, many, raw, functions = found[0]
    assert thought.content == "The capital of France is Paris." == many[0]
    assert "</think>" in raw
    assert [function.name for function in functions] == ["weather"]
