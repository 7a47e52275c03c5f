"""Chat templates: programs from files, in a sandbox that bounds their time and memory; and Ollama's form of them."""

from __future__ import annotations

from pathlib import Path

from fuzz.target import Target, as_text
from qwen35_gguf.release.ollama.template import ollama_template
from qwen35_gguf.runtime.chat.template import ChatTemplate

CALL = {"name": "f", "arguments": {"a": 1}}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image"}]},
    {"role": "assistant", "content": "x", "tool_calls": [{"type": "function", "function": CALL}]},
    {"role": "tool", "content": "y"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
PUBLISHED = Path(__file__).parents[2] / "inputs" / "chat_templates" / "qwen3.5.jinja"


def render(data: bytes) -> None:
    """Compile a template, and render a conversation."""
    source = as_text(data)
    template = ChatTemplate(source, eos_token="<|im_end|>")
    template.render(MESSAGES, tools=TOOLS, enable_thinking=False)
    if len(data) % 16 == 0:
        ollama_template(source)


def seeds() -> list[bytes]:
    """A published template, and programs of a few lines with what templates use and what an attacker would."""
    return [
        PUBLISHED.read_bytes()[:6000],
        b"{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content|string|trim }}<|im_end|>{% endfor %}",
        b"{% macro f(x, y=1) %}{{ x ~ y }}{% endmacro %}{{ f(2) }}"
        b"{% set ns = namespace(a=[]) %}{% set ns.a = ns.a + [1] %}",
        b"{% for i in range(9999) %}{% if i > 3 %}{% break %}{% endif %}{{ loop.index }}{% endfor %}",
        b"{{ ''.__class__.__mro__ }}{{ ('%s' * 3) % (1, 2, 3) }}{{ '{:>9}'.format(1) }}{{ 2 ** 9 }}",
        b"{% set x = 'a' * 99 %}{{ x.replace('a', x)|indent(4)|upper }}{{ [1]|tojson(indent=2) }}"
        b"{{ messages|map(attribute='role')|join(',') }}",
    ]


WORDS = (
    "{%", "%}", "{{", "}}", "{% for x in range(99999) %}", "{% endfor %}", "{% set a = a ~ a %}", "{% macro m() %}",
    "{% endmacro %}", "{{ m() }}", "namespace(", "|tojson", "|join", "|replace('a', b)", "|center(9999999)", "|indent(",
    "|list", "|map(", "|selectattr(", "messages", "loop", ".__class__", ".mro()", "cycler(", "lipsum(", "* 10**9",
    "** 99", "%9999999999d", ".format(", "strftime_now(", "raise_exception(", "|batch(", "|slice(", "|pprint", "self",
    "|groupby(", "|sum(start=[])", "[::2]", "caller()", "|attr('__globals__')", "|wordwrap(", "|unique", "|string",
)  # fmt: skip
TARGETS = (
    Target(
        "template",
        render,
        seeds,
        ("qwen35_gguf.runtime.chat.template", "qwen35_gguf.jinja_environment"),
        WORDS,
        needs=("jinja2",),
        longest=8192,
    ),
)
