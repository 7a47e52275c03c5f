"""The texts of a release: the model card and its plot, and the Modelfile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from qwen35_gguf.convert.metadata import HUB
from qwen35_gguf.errors import MissingDependencyError
from qwen35_gguf.evaluation.size_plot import Point, draw
from qwen35_gguf.gguf_file.header import GgufHeader, read_header
from qwen35_gguf.release.ollama.modelfile import modelfile
from qwen35_gguf.runtime.planning import memory

NAMES = ("README.md", "Modelfile", "size-quality.png", "size-quality.svg")
CONTEXTS = (8192, 32768, 262144)
PREFERRED = ("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q6_K", "Q8_0")

CARD = """---
{front}---

# {name} in GGUF

{base} for llama.cpp and what is built on it. {parts}

## Files

| File | Type | MB | Bits per weight | KL divergence | Same top token | Memory at {contexts} tokens, GB |
|---|---|--:|--:|--:|--:|--:|
{rows}

{measured}Memory is what `qwen35 plan` computes for the CPU, weights included, pictures not.
{plot}
## How to run it

```sh
# llama.cpp
llama-server -m {first}{mmproj}
# qwen35-gguf
qwen35 run {first} "Hello"
# Ollama
ollama create {tag} -f Modelfile
```

```python
from qwen35_gguf.runtime import Qwen35

print(Qwen35("{first}").chat([{{"role": "user", "content": "Hello"}}]).choices[0].message.content)
```

LM Studio: put the files into one folder below its models folder; it finds the vision tower by its name.

## How it was made

{how}. {again}`qwen35 checksum .` verifies a download.
"""
MEASURED = """Divergence is from the unquantized weights, in nats: the mean over {tokens:,} tokens, with the interval
that holds the true mean in 95 of 100 cases.
"""
AGAIN = """`recipe.json` has the options and checksums of what went in: with the same checkpoint
`qwen35 verify-release . --against CHECKPOINT` makes the same bytes again. """


@dataclass(frozen=True)
class Origin:
    """Where the weights come from and how the files were made.

    Attributes:
        front: the front matter of the checkpoint's own card.
        name: of the model.
        license: as the Hub names it; empty: what `front` says.
        base_model: its id on the Hub, or empty.
        how: the files were made, as a sentence without its full stop.
        verifiable: whether they can be made again from a checkpoint.
        imatrix: whether an importance matrix lies beside.

    """

    front: Mapping[str, Any]
    name: str
    license: str = ""
    base_model: str = ""
    how: str = ""
    verifiable: bool = False
    imatrix: bool = False


def texts(
    folder: Path,
    models: Sequence[tuple[str, list[Path]]],
    beside: Sequence[Path],
    *,
    figures: Mapping[str, Any],
    origin: Origin,
) -> dict[str, str]:
    """Write the card and the Modelfile, and draw the plot if anything was measured.

    Args:
        folder: of the release.
        models: the text models: name, and the shards.
        beside: what cannot be run alone: vision towers, MTP heads.
        figures: of divergence, by name.
        origin: where it all comes from.

    """
    seeing = [path for path in beside if path.name.startswith("mmproj-")]
    preferred = (parts for quant in PREFERRED for file, parts in models if quant_of(file) == quant)
    start = next(preferred, models[0][1])
    rows = [row(file, parts, figures.get(file)) for file, parts in models] + [aside(path) for path in beside]
    # without the head a model says the same
    points = [point(file, parts, figures[file]) for file, parts in models if file in figures and "-nomtp-" not in file]
    plot = ""
    if points:
        try:
            draw(points, folder / "size-quality.png", origin.name)
            plot = "\n![size against divergence](size-quality.svg)\n"
        except MissingDependencyError:
            plot = ""
    tokens = next((one["tokens"] for one in figures.values()), 0)
    licensed = str(origin.license or origin.front.get("license") or "other")
    base = f"[{origin.base_model}]({HUB}/{origin.base_model})" if origin.base_model else origin.name
    text = CARD.format(
        front=front(origin, licensed, seeing=bool(seeing)),
        name=origin.name,
        base=base,
        parts=described([parts[0] for _, parts in models], seeing=bool(seeing)),
        contexts=" / ".join(f"{n // 1024}k" for n in CONTEXTS),
        rows="\n".join(rows),
        measured=MEASURED.format(tokens=tokens) if points else "",
        plot=plot,
        first=start[0].name,
        mmproj=f" --mmproj {seeing[0].name}" if seeing else "",
        tag=origin.name.lower().replace(" ", "-"),
        how=origin.how,
        again=AGAIN if origin.verifiable else "",
    )
    return {"README.md": text, "Modelfile": modelfile(start, seeing, licensed if licensed != "other" else "")}


def front(origin: Origin, licensed: str, *, seeing: bool) -> str:
    """Write the YAML by which the Hub sorts a repository."""
    entries = {
        "license": licensed,
        **({"base_model": [origin.base_model], "base_model_relation": "quantized"} if origin.base_model else {}),
        "pipeline_tag": "image-text-to-text" if seeing else "text-generation",
        "library_name": "gguf",
        **({"language": origin.front["language"]} if origin.front.get("language") else {}),
        "tags": ["gguf", "qwen3.5", "llama.cpp", "quantized", *(["imatrix"] if origin.imatrix else [])],
    }
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def described(models: Sequence[Path], *, seeing: bool) -> str:
    """Say what the files hold."""
    drafting = [path for path in models if memory.has_mtp(read_header(path))]
    said = "The text models have their multi-token-prediction head" if drafting else "The text models have no MTP head"
    if 0 < len(drafting) < len(models):
        said += ", but for those called nomtp"
    return said + (", and the vision tower is a file of its own." if seeing else ".")


def header_of(parts: Sequence[Path]) -> GgufHeader:
    """Read the header of a model, with the tensors of all its shards."""
    headers = [read_header(part) for part in parts]
    return replace(headers[0], tensors=tuple(tensor for header in headers for tensor in header.tensors))


def bits_per_weight(parts: Sequence[Path]) -> float:
    """Return the bits of all tensors, over the weights in them."""
    tensors = header_of(parts).tensors
    return 8 * sum(t.n_bytes for t in tensors) / max(1, sum(math.prod(t.shape) for t in tensors))


def quant_of(file: str) -> str:
    """Return what a file is quantized to, by its name."""
    return file.removesuffix(".gguf").rpartition("-")[2]


def row(file: str, parts: Sequence[Path], figures: Mapping[str, Any] | None) -> str:
    """Write the row of a text model."""
    size = sum(path.stat().st_size for path in parts) / 1e6
    measured = f"{figures['mean']:.5f} ({figures['low']:.5f} to {figures['high']:.5f})" if figures else ""
    same = f"{100 * figures['same_top']:.2f} %" if figures else ""
    label = parts[0].name if len(parts) == 1 else f"{parts[0].name} and {len(parts) - 1} more"
    bits = bits_per_weight(parts)
    return f"| {label} | {quant_of(file)} | {size:,.1f} | {bits:.2f} | {measured} | {same} | {needed(parts)} |"


def point(file: str, parts: Sequence[Path], figures: Mapping[str, Any]) -> Point:
    """Make the point of a model in the plot."""
    return Point(quant_of(file), bits_per_weight(parts), figures["mean"], figures["low"], figures["high"])


def aside(path: Path) -> str:
    """Write the row of a file that cannot be run alone."""
    kind = "MTP head" if path.name.startswith("mtp-") else "vision tower"
    return f"| {path.name} | {kind} | {path.stat().st_size / 1e6:,.1f} | | | | |"


def needed(parts: Sequence[Path]) -> str:
    """Say how many GB a model needs at each context, or that it has no such context."""
    header = header_of(parts)
    said = []
    for n_ctx in CONTEXTS:
        fits = n_ctx <= memory.native_context(header)
        said.append(f"{memory.estimate(header, n_ctx=n_ctx).total / 1e9:.1f}" if fits else "-")
    return " / ".join(said)


def front_matter(path: Path) -> dict[str, Any]:
    """Read the YAML at the beginning of a card; {} where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        head = text.split("---")[1] if text.startswith("---") else ""
        data = yaml.safe_load(head)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, IndexError):
        return {}
    return data if isinstance(data, dict) else {}
