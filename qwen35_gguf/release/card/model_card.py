"""The texts of a release: the model card and its plot, and the Modelfile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from qwen35_gguf.convert.metadata import HUB
from qwen35_gguf.errors import MessageError, MissingDependencyError
from qwen35_gguf.evaluation.size_plot import Point, draw
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.release.card.parts import part
from qwen35_gguf.release.ollama.modelfile import modelfile
from qwen35_gguf.release.plan import MMPROJ, MODEL, MTP, Origin, ReleaseFile, Role
from qwen35_gguf.release.state import Figures
from qwen35_gguf.runtime.chat.template import ChatTemplate
from qwen35_gguf.runtime.context_spec import ContextSpec, MemoryRequest
from qwen35_gguf.runtime.planning.memory import estimate, has_mtp
from qwen35_gguf.runtime.planning.yarn import native_context
from qwen35_gguf.units import format_file_size

CARD_NAME, MODELFILE, PLOTS = "README.md", "Modelfile", ("size-quality.png", "size-quality.svg")
NAMES = (CARD_NAME, MODELFILE, *PLOTS)
CONTEXTS = (8192, 32768, 262144)
PREFERRED = ("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q6_K", "Q8_0")
KINDS: dict[Role, str] = {MTP: "MTP head", MMPROJ: "vision encoder"}

Parts = tuple[Path, ...]

CARD = """---
{front}---

# {name} in GGUF

{contents}

## Files

{files}

## How to run it

{run}

LM Studio: put the files into one folder below its models folder; it finds the vision encoder by its name.

## How it was made

{made}
"""
FILES = """
| File | Type | Size | Bits per weight | KL divergence | Same top token | Memory at {contexts} tokens, GB |
|---|---|--:|--:|--:|--:|--:|
{rows}

{measured}Memory is what `qwen35 plan` computes for the CPU: with the weights, without images.
{plot}
"""
RUN = """
```sh
# llama.cpp
llama-server -m {first}{mmproj}
# qwen35-gguf
qwen35 run {first} "Hello"
# Ollama
ollama create {tag} -f Modelfile
```

```python
from qwen35_gguf import Qwen35

print(Qwen35("{first}").chat([{{"role": "user", "content": "Hello"}}]).choices[0].message.content)
```
{template}"""
TEMPLATE = """
The chat template reads {options}: `--template-option KEY=VALUE` of `qwen35`, `chat_template_kwargs` of servers.
"""
MEASURED = """KL divergence is from the unquantized weights, in nats: the mean over {tokens:,} tokens, with its 95 %
confidence interval.
"""
AGAIN = """`recipe.json` records the options and the checksums of the inputs: with the same checkpoint
`qwen35 verify-release . --against CHECKPOINT` makes the same bytes again. """


@dataclass(frozen=True)
class Card:
    """What the model card and the Modelfile are made of.

    Attributes:
        origin: of the weights.
        files: of the release, each with its shards in order.
        figures: of KL divergence, by the name of the file.
        how: the files were made, as a sentence without its full stop.
        reproducible: whether they can be made again from a checkpoint.
        imatrix: whether the release includes an importance matrix.

    """

    origin: Origin
    files: tuple[tuple[ReleaseFile, Parts], ...]
    figures: Mapping[str, Figures]
    how: str
    reproducible: bool
    imatrix: bool

    @property
    def models(self) -> list[tuple[ReleaseFile, Parts]]:
        """The files that run alone."""
        return [(file, parts) for file, parts in self.files if file.role == MODEL]

    @property
    def mmproj(self) -> list[Path]:
        """The vision encoders."""
        return [parts[0] for file, parts in self.files if file.role == MMPROJ]


def contents(card: Card, scratch: Path) -> dict[str, bytes]:
    """Make the card and the Modelfile, and draw the plot if anything was measured.

    Args:
        card: what they are made of.
        scratch: a folder that the plot is drawn in.

    Returns:
        The content of each file, by its name.

    Raises:
        GgufError: a file of the release cannot be read.
        OutputError: the plot cannot be written.

    """
    origin, models, mmproj = card.origin, card.models, card.mmproj
    preferred = (parts for quant in PREFERRED for file, parts in models if file.quant == quant)
    start = next(preferred, models[0][1])
    in_order = sorted(models, key=lambda model: _size(model[1]))
    rows = [_model_row(file, parts, card.figures.get(file.name)) for file, parts in in_order]
    rows += [_other_row(file, path) for file, parts in card.files if file.role != MODEL for path in parts]
    plots = _plots(card, scratch)
    tokens = next((one.tokens for one in card.figures.values()), 0)
    license_ = origin.license or "other"
    base = f"[{origin.base_model}]({HUB}/{origin.base_model})" if origin.base_model else origin.name
    files = FILES.format(
        contexts=" / ".join(f"{n // 1024}k" for n in CONTEXTS),
        rows="\n".join(rows),
        measured=MEASURED.format(tokens=tokens) if _points(card) else "",
        plot="\n![size against KL divergence](size-quality.svg)\n" if plots else "",
    )
    run = RUN.format(
        first=start[0].name,
        mmproj=f" --mmproj {mmproj[0].name}" if mmproj else "",
        tag=origin.name.lower().replace(" ", "-"),
        template=_template_options(start),
    )
    made = f"{card.how}. {AGAIN if card.reproducible else ''}`qwen35 checksum .` verifies a download."
    text = CARD.format(
        front=_front_matter(card, license_),
        name=origin.name,
        contents=part("contents", f"{base} for llama.cpp and programs built on it. {_contents(card)}"),
        files=part("files", files),
        run=part("run", run),
        made=part("made", made),
    )
    model_file = modelfile(start, mmproj, license_ if license_ != "other" else "")
    return {CARD_NAME: text.encode(), MODELFILE: model_file.encode()} | plots


def _front_matter(card: Card, license_: str) -> str:
    """Write the YAML by which the Hub sorts a repository."""
    origin = card.origin
    entries = {
        "license": license_,
        **({"base_model": [origin.base_model], "base_model_relation": "quantized"} if origin.base_model else {}),
        "pipeline_tag": "image-text-to-text" if card.mmproj else "text-generation",
        "library_name": "gguf",
        **({"language": list(origin.languages)} if origin.languages else {}),
        "tags": ["gguf", "qwen3.5", "llama.cpp", "quantized", *(["imatrix"] if card.imatrix else [])],
    }
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def _contents(card: Card) -> str:
    """Describe what the files hold."""
    with_mtp = [parts for _, parts in card.models if has_mtp(read_header(parts[0]))]
    if not with_mtp:
        text = "The text models have no multi-token-prediction (MTP) head"
    else:
        text = "The text models include the multi-token-prediction (MTP) head"
        if len(with_mtp) < len(card.models):
            text += ", except those with `nomtp` in their name"
    return text + (". The vision encoder is a separate file." if card.mmproj else ".")


def _template_options(parts: Sequence[Path]) -> str:
    """Name the options of the file's chat template, if it has one that can be compiled and reads some."""
    source = read_header(parts[0]).value("tokenizer.chat_template")
    try:
        names = sorted(ChatTemplate(source).options) if isinstance(source, str) else []
    except (MessageError, MissingDependencyError):
        names = []
    return TEMPLATE.format(options=", ".join(f"`{name}`" for name in names)) if names else ""


def _plots(card: Card, scratch: Path) -> dict[str, bytes]:
    """Draw size against KL divergence; return the images by name, none without figures or without matplotlib."""
    points = _points(card)
    if not points:
        return {}
    try:
        drawn = draw(points, scratch / PLOTS[0], card.origin.name)
    except MissingDependencyError:
        return {}
    return {path.name: path.read_bytes() for path in drawn}


def _points(card: Card) -> list[Point]:
    """Make the points of the plot; a model without its MTP head has the figures of the one with it."""
    points = []
    for file, parts in card.models:
        found = card.figures.get(file.name)
        if found is not None and "-nomtp-" not in file.name:
            points.append(Point(file.quant, _bits_per_weight(parts), found.mean, found.low, found.high))
    return points


def _header_of(parts: Sequence[Path]) -> GgufHeader:
    """Read the header of a model, with the tensors of all its shards."""
    headers = [read_header(part) for part in parts]
    return replace(headers[0], tensors=tuple(tensor for header in headers for tensor in header.tensors))


def _bits_per_weight(parts: Sequence[Path]) -> float:
    """Return the bits of all tensors, over the weights in them."""
    tensors = _header_of(parts).tensors
    return 8 * sum(t.nbytes for t in tensors) / max(1, sum(math.prod(t.shape) for t in tensors))


def _size(parts: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in parts)


def _model_row(file: ReleaseFile, parts: Sequence[Path], figures: Figures | None) -> str:
    divergence = f"{figures.mean:.5f} ({figures.low:.5f} to {figures.high:.5f})" if figures else ""
    same = f"{100 * figures.same_top:.2f} %" if figures else ""
    label = parts[0].name if len(parts) == 1 else f"{parts[0].name} and {len(parts) - 1} more"
    size = f"{format_file_size(_size(parts))} | {_bits_per_weight(parts):.2f}"
    return f"| {label} | {file.quant} | {size} | {divergence} | {same} | {_memory(parts)} |"


def _other_row(file: ReleaseFile, path: Path) -> str:
    """Write the row of a file that does not run alone."""
    return f"| {path.name} | {KINDS[file.role]} | {format_file_size(path.stat().st_size)} | | | | |"


def _memory(parts: Sequence[Path]) -> str:
    """List the GB that a model needs at each context; "-" for a context longer than its own."""
    header = _header_of(parts)
    figures = []
    for n_ctx in CONTEXTS:
        fits = n_ctx <= native_context(header)
        figures.append(f"{estimate(header, MemoryRequest(ContextSpec(n_ctx))).total / 1e9:.1f}" if fits else "-")
    return " / ".join(figures)
