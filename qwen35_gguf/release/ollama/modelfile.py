"""Ollama's Modelfile of a release.

Sources: docs/modelfile.mdx, parser/parser.go and server/create.go of Ollama. A vision encoder has a FROM line of its
own: Ollama recognizes it by its metadata. Each shard of a model has a FROM line, since version 0.35.0; earlier versions
do not support shards.

PARSER sets how Ollama reads thoughts and tool calls in answers: it does not recognize this form by the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qwen35_gguf.errors import MissingDependencyError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.release.ollama.template import ollama_template
from qwen35_gguf.runtime.engine import sampling

FAMILY = "qwen3.5"  # Ollama's name for its parser and renderer
SHARDS_SINCE = "0.35.0"
STOPS = ("<|im_end|>", "<|endoftext|>")
MAX_CONTEXT = 32768  # tokens; enough for thoughts and an answer, and fits the memory of a laptop
DIGITS = 4  # of a float32 such as 0.95

SHARDED = """# These shards are one model. Ollama {since} or later is required; for an earlier version join them first:
# qwen35 merge {first} -o {whole}
REQUIRES {since}"""
OWN_TEMPLATE = """# The model's chat template does not have Qwen3.5's form; Ollama uses its own for this family.
RENDERER {family}"""
DRAFTS = """# The model has an MTP head, which drafts tokens. Versions of Ollama with this parameter can use it:
# PARAMETER draft_num_predict 2"""


def modelfile(parts: Sequence[Path], mmproj: Sequence[Path] = (), license_: str = "") -> str:
    """Write a Modelfile for the folder of the files.

    Args:
        parts: the text model: one file, or all its shards, the first one first.
        mmproj: vision encoders; the first one is used.
        license_: of the model, as an SPDX name; empty: left out.

    Raises:
        GgufError: the model cannot be read.

    """
    layout = read_header(parts[0])
    lines = []
    if len(parts) > 1:
        whole = parts[0].name.rsplit("-", 3)[0] + ".gguf"
        lines.append(SHARDED.format(since=SHARDS_SINCE, first=parts[0].name, whole=whole))
    lines += [f"FROM ./{path.name}" for path in [*parts, *mmproj[:1]]]
    lines += [_template(layout), f"PARSER {FAMILY}", *_parameters(layout)]
    if _number(layout, "nextn_predict_layers"):
        lines.append(DRAFTS)
    if license_ and '"' not in license_:
        lines.append(f'LICENSE """{license_}"""')
    return "\n".join(lines) + "\n"


def _template(layout: GgufHeader) -> str:
    source = layout.value("tokenizer.chat_template")
    try:
        program = ollama_template(source) if isinstance(source, str) else None
    except MissingDependencyError:  # of jinja2; a release without a template is better than none
        program = None
    return f'TEMPLATE """{program}"""' if program else OWN_TEMPLATE.format(family=FAMILY)


def _parameters(layout: GgufHeader) -> list[str]:
    """Return the defaults of `Qwen35`: the family's recommendation for thinking, overridden by the file's metadata."""
    stored = {entry.key: str(entry.value) for entry in layout.entries if entry.key.startswith("general.sampling.")}
    chosen = sampling.choose(sampling.THINKING, stored, {})
    values: dict[str, float] = {
        "num_ctx": min(MAX_CONTEXT, _number(layout, "context_length") or MAX_CONTEXT),
        "temperature": chosen.temperature,
        "top_k": chosen.top_k,
        "top_p": chosen.top_p,
        "min_p": chosen.min_p,
        "presence_penalty": chosen.presence_penalty,
        "repeat_penalty": chosen.repeat_penalty,
    }
    last = layout.value("general.sampling.penalty_last_n")
    if isinstance(last, int):
        values["repeat_last_n"] = last
    lines = [f"PARAMETER {name} {round(value, DIGITS)}" for name, value in values.items()]
    return lines + [f'PARAMETER stop "{stop}"' for stop in STOPS]


def _number(layout: GgufHeader, key: str) -> int:
    value = layout.value(f"{layout.value('general.architecture')}.{key}", 0)
    return int(value) if isinstance(value, int) else 0
