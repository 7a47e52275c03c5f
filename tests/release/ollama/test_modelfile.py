"""The Modelfile's lines, and its TEMPLATE against the chat template: Go renders the one, jinja2 the other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sdist
from oracles.paths import ROOT, TEMPLATES, TINY
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.release import metadata_edit
from qwen35_gguf.release.ollama.modelfile import modelfile
from qwen35_gguf.release.ollama.template import ollama_template
from qwen35_gguf.runtime.chat.template import ChatTemplate

RENDERER = ROOT / "tests" / "oracles" / "render_template.go"
TEMPLATE = TINY / "chat_template.jinja"
PUBLISHED = f"{sdist.NAME}/vendor/llama.cpp/models/templates"  # llama.cpp keeps published templates for its tests

Message = dict[str, Any]


# ---- the lines ---------------------------------------------------------------------------------------------------


def lines(text: str) -> list[str]:
    """The instructions but for the TEMPLATE."""
    return re.sub(r'TEMPLATE """.*?"""\n', "", text, flags=re.DOTALL).splitlines()


@pytest.mark.unit
def test_model_vision_encoder_and_sampling_of_the_metadata(files: list[Path]) -> None:
    assert lines(modelfile(files[:1], files[1:], "apache-2.0")) == [
        f"FROM ./{files[0].name}",
        f"FROM ./{files[1].name}",
        "PARSER qwen3.5",
        "PARAMETER num_ctx 4096",
        "PARAMETER temperature 0.6",
        "PARAMETER top_k 20",
        "PARAMETER top_p 0.95",
        "PARAMETER min_p 0.0",
        "PARAMETER presence_penalty 1.5",
        "PARAMETER repeat_penalty 1.0",
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        "# The model has an MTP head, which drafts tokens. Versions of Ollama with this parameter can use it:",
        "# PARAMETER draft_num_predict 2",
        'LICENSE """apache-2.0"""',
    ]


@pytest.mark.unit
def test_other_values_of_the_file_are_taken(files: list[Path], tmp_path: Path) -> None:
    file = Path(shutil.copy(files[0], tmp_path))
    layout = read_header(file)
    stored = {
        "general.sampling.temp": "0.25",
        "general.sampling.min_p": "0.05",
        "general.sampling.penalty_repeat": "1.1",
        "general.sampling.penalty_last_n": "256",
        "qwen35.context_length": "262144",
    }
    entries = [metadata_edit.new_entry(layout, key, value) for key, value in stored.items()]
    metadata_edit.change(file, replace=entries, remove=["qwen35.nextn_predict_layers"])
    found = lines(modelfile([file]))
    for line in ("num_ctx 32768", "temperature 0.25", "min_p 0.05", "repeat_penalty 1.1", "repeat_last_n 256"):
        assert f"PARAMETER {line}" in found
    assert not any(line.startswith(("#", "LICENSE")) for line in found)


@pytest.mark.unit
def test_every_shard_is_named(files: list[Path], tmp_path: Path) -> None:
    parts = shards.split(files[0], tmp_path, 1_000_000)
    found = lines(modelfile(parts, files[1:]))
    assert [line for line in found if line.startswith("FROM")] == [f"FROM ./{p.name}" for p in [*parts, *files[1:]]]
    assert f"# qwen35 merge {parts[0].name} -o {files[0].name}" in found
    assert "REQUIRES 0.35.0" in found


@pytest.mark.unit
@pytest.mark.parametrize("source", ["", "{% for m in messages %}{{ m.content }}{% endfor %}", "{% if %}"])
def test_a_template_of_another_form_is_left_to_ollama(files: list[Path], tmp_path: Path, source: str) -> None:
    file = Path(shutil.copy(files[0], tmp_path))
    entry = metadata_edit.new_entry(read_header(file), "tokenizer.chat_template", source)
    metadata_edit.change(file, replace=[entry])
    text = modelfile([file])
    assert "RENDERER qwen3.5" in text.splitlines()
    assert "TEMPLATE" not in text


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["qwen3.5", "qwen3.6", "qwen3.8"])
def test_templates_of_all_versions_have_the_form(kind: str) -> None:
    assert ollama_template((TEMPLATES / f"{kind}.jinja").read_text(encoding="utf-8"))


@pytest.mark.unit
def test_nothing_ends_the_template_early(files: list[Path]) -> None:
    text = modelfile(files[:1])
    assert text.count('"""') == 2
    assert text.isascii()


# ---- the template ------------------------------------------------------------------------------------------------

USER: Message = {"role": "user", "content": "What is <b>bold</b> & 'quoted'?"}
SYSTEM: Message = {"role": "system", "content": "Be brief.\nBe kind."}
ANSWER: Message = {"role": "assistant", "content": "Thick letters."}
THOUGHTFUL: Message = ANSWER | {"reasoning_content": "Think of <b>.\nIt is HTML."}
AGAIN: Message = {"role": "user", "content": "And {{ this }}?"}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather_at",
            "description": 'The weather at a "place", if it is < 100 km & known.',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Zürich, for example"},
                    "days": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]


def call(name: str, **arguments: Any) -> Message:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: Message, content: str = "", **more: Any) -> Message:
    return {"role": "assistant", "content": content, "tool_calls": list(made), **more}


def result(content: str) -> Message:
    return {"role": "tool", "content": content}


# Arguments are in the order of their names: Go has no other order.
HARD = {
    "flag": True,
    "lines": 'a = "x" < 3 &&\n\tb\n',
    "nested": {"a": [1, -2.5, True, None, {"k": 'é < "\\" \n ✓'}], "b": {}, "c": [], "d": {"e": {"f": [[]]}}},
    "none": None,
    "number": 17,
    "part": 0.125,
    "words": ["<tag>", "&amp;", "日本"],
}

SCENES: dict[str, dict[str, Any]] = {
    "a question": {"messages": [USER]},
    "a system message": {"messages": [SYSTEM, USER]},
    "several turns": {"messages": [SYSTEM, USER, ANSWER, AGAIN, ANSWER, USER]},
    "thoughts of earlier answers": {"messages": [USER, THOUGHTFUL, AGAIN]},
    "thinking on": {"messages": [USER], "think": True},
    "thinking off": {"messages": [SYSTEM, USER, ANSWER, AGAIN], "think": False},
    "tools": {"messages": [USER], "tools": TOOLS},
    "one tool, thinking off": {"messages": [USER], "tools": TOOLS[:1], "think": False},
    "tools and a system message": {"messages": [SYSTEM, USER, ANSWER, AGAIN], "tools": TOOLS},
    "a call and its result": {
        "messages": [SYSTEM, USER, calls(call("weather_at", city="Ulm")), result("sunny\nspells")],
        "tools": TOOLS,
    },
    "calls with a text and thoughts": {
        "messages": [
            USER,
            calls(call("now"), call("weather_at", city="Ulm"), content="I look.", reasoning_content="Where?\nThere."),
            result("noon"),
            result('{"sky": "<clear>"}'),
        ],
        "tools": TOOLS,
    },
    "calls one after the other": {
        "messages": [
            USER,
            calls(call("now"), reasoning_content="First the time."),
            result("noon"),
            calls(call("weather_at", city="Ulm"), reasoning_content="Now the sky."),
            result("rain"),
        ],
        "tools": TOOLS,
        "think": True,
    },
    "calls of an earlier question": {
        "messages": [USER, calls(call("now"), reasoning_content="When?"), result("noon"), THOUGHTFUL, AGAIN],
        "tools": TOOLS,
    },
    "hard arguments": {"messages": [USER, calls(call("anything", **HARD), call("now")), result("")], "tools": TOOLS},
    "an answer to be continued": {"messages": [USER, ANSWER]},
    "a thoughtful answer to be continued": {"messages": [USER, THOUGHTFUL], "tools": TOOLS},
}


def published(name: str) -> str:
    with tarfile.open(sdist.fetch_sdist()) as archive:
        file = archive.extractfile(f"{PUBLISHED}/{name}")
        assert file is not None
        return file.read().decode()


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Render the scenes by Go."""
    if shutil.which("go") is None:
        pytest.skip("needs Go, which TEMPLATE is written for: apt-get install golang-go")
    program = tmp_path_factory.mktemp("go") / "render"
    subprocess.run(["go", "build", "-o", str(program), str(RENDERER)], check=True, timeout=300)

    def run(template: str) -> list[str]:
        asked = json.dumps({"template": template, "scenes": [for_ollama(scene) for scene in SCENES.values()]})
        done = subprocess.run([program], input=asked, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def for_ollama(scene: dict[str, Any]) -> dict[str, Any]:
    messages = [message | {"thinking": message.get("reasoning_content", "")} for message in scene["messages"]]
    return scene | {"messages": messages}


def by_jinja(template: ChatTemplate, scene: dict[str, Any], knows_thoughts: bool) -> str:
    messages = scene["messages"]
    if not knows_thoughts:  # then they are part of the text that the model wrote
        messages = [
            m | {"content": f"<think>\n{m['reasoning_content']}\n</think>\n\n{m['content']}"}
            if "reasoning_content" in m
            else m
            for m in messages
        ]
    is_open = messages[-1]["role"] == "assistant"
    text = template.render(
        messages, tools=scene.get("tools"), enable_thinking=scene.get("think"), add_generation_prompt=not is_open
    )
    return text.removesuffix("<|im_end|>\n") if is_open else text


def with_plain_tools(text: str) -> str:
    """Tools written alike: Go's JSON has no space between, and < and & escaped."""
    return re.sub(r'(?m)^\{"(?:type|name)":.*\}$', lambda m: json.dumps(json.loads(m[0]), sort_keys=True), text)


# A third one, which differs from both where such templates may: no thoughts unless asked for, functions alone.
THIRD = """
{%- set last = namespace(user=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- if tools -%}
{{- '<|im_start|>system\\nTools are "{{":\\n' -}}
{%- for tool in tools -%}{{- tool.function | tojson + '\\n' -}}{%- endfor -%}
{{- '}} and no more.' -}}
{%- if messages[0].role == 'system' -%}{{- ' But: ' + messages[0].content + '!' -}}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
{%- if not (tools and loop.first and m.role == 'system') -%}
{{- '<|im_start|>' + m.role + '\\n' -}}
{%- if m.role == 'assistant' and loop.index0 > last.user -%}
{{- '<think>' + m.reasoning_content + '</think>' if m.reasoning_content else '<no thoughts>' -}}
{%- endif -%}
{{- m.content -}}
{%- for call in m.tool_calls or [] -%}
{{- '<tool_call>\\n<function=' + call.function.name + '>\\n' -}}
{%- for key, value in call.function.arguments | items -%}
{{- '<parameter=' + key + '>\\n' + (value if value is string else value | tojson) + '\\n</parameter>\\n' -}}
{%- endfor -%}
{{- '</function>\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' + ('<think>' if enable_thinking else '<no thoughts>') -}}
{%- endif -%}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["the tiny model's", "the random checkpoint's", "the third", "Qwen3.5-4B.jinja", "qwen3.5", "qwen3.6", "qwen3.8"],
)
def test_go_writes_what_the_chat_template_writes(
    name: str, render: Callable[[str], list[str]], make_checkpoint: Any
) -> None:
    own = {
        "the tiny model's": TEMPLATE.read_text(encoding="utf-8"),
        "the random checkpoint's": make_checkpoint.CHAT_TEMPLATE,
        "the third": THIRD,
        **{path.stem: path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.jinja")},
    }
    source = own[name] if name in own else published(name)
    chat_template = ChatTemplate(source)
    template = ollama_template(source)
    assert template is not None
    for (scene, asked), text in zip(SCENES.items(), render(template), strict=True):
        expected = by_jinja(chat_template, asked, "reasoning_content" in source)
        assert with_plain_tools(text) == with_plain_tools(expected), scene


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B.jinja", "Qwen3-Coder.jinja", "Qwen-Qwen2.5-7B-Instruct.jinja"])
def test_templates_of_other_families_are_refused(name: str) -> None:
    assert ollama_template(published(name)) is None
