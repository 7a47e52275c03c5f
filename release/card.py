"""The texts of a release: model card, Ollama's Modelfile, the plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qwen35_gguf import __version__
from qwen35_gguf.errors import MissingDependencyError
from qwen35_gguf.quant.size_plot import Point, draw
from qwen35_gguf.release.container import read_layout
from qwen35_gguf.runtime import memory
from qwen35_gguf.runtime.gguf_header import read_header

NAMES = ("README.md", "Modelfile", "size-quality.png", "size-quality.svg")
CONTEXTS = (8192, 32768, 262144)
STOPS = ("<|im_end|>", "<|endoftext|>")
PREFERRED = ("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q6_K", "Q8_0")

MODELFILE = '''FROM ./{file}
TEMPLATE """{{{{- range .Messages }}}}<|im_start|>{{{{ .Role }}}}
{{{{ .Content }}}}<|im_end|>
{{{{ end }}}}<|im_start|>assistant
"""
{parameters}'''

CARD = """---
{front}---

# {name} in GGUF

{base} for llama.cpp and what is built on it. The text model has its multi-token-prediction head{vision}.

## Files

| File | Type | MB | Bits per weight | KL divergence from BF16 | Same top token | Memory at {contexts} tokens, GB |
|---|---|--:|--:|--:|--:|--:|
{rows}
{towers}
Divergence is in nats, the mean over {tokens} tokens, with the interval that holds the true mean in 95 of 100 cases.
Memory is what `qwen35 plan` computes for the CPU, weights included, pictures not.
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

qwen35-gguf {version}{how}.
`recipe.json` has the options and checksums of what went in: with the same checkpoint
`qwen35 verify-release . --against CHECKPOINT` makes the same bytes again. `qwen35 checksum .` verifies a download.
"""


def texts(
    folder: Path,
    files: Sequence[tuple[str, list[Path]]],
    towers: Sequence[Path],
    *,
    checkpoint: Path,
    figures: Mapping[str, Any],
    license_: str,
    base_model: str,
    recipe: str,
    imatrix: bool,
) -> dict[str, str]:
    """Write the card and the Modelfile, and draw the plot if anything was measured.

    Args:
        folder: of the release.
        files: the text models: name, and the shards.
        towers: what cannot be run alone: vision towers, MTP heads.
        checkpoint: for its own card.
        figures: of divergence, by name.
        license_: of the model; empty: its card's.
        base_model: its id on the Hub, or empty.
        recipe: its name, or empty.
        imatrix: whether there is one.

    """
    seeing = [path for path in towers if path.name.startswith("mmproj-")]
    source = front_matter(checkpoint / "README.md")
    name = str(read_layout(files[0][1][0]).get("general.name", checkpoint.name))
    rows, points = [], []
    for file, parts in files:
        quant = file.removesuffix(".gguf").rpartition("-")[2]
        size = sum(path.stat().st_size for path in parts)
        tensors = [tensor for path in parts for tensor in read_header(path).tensors]
        weights = sum(math.prod(tensor.shape) for tensor in tensors)
        bits = 8 * sum(tensor.n_bytes for tensor in tensors) / max(1, weights)
        one = figures.get(file)
        measured = f"{one['mean']:.5f} ({one['low']:.5f} to {one['high']:.5f})" if one else ""
        same = f"{100 * one['same_top']:.2f} %" if one else ""
        label = parts[0].name if len(parts) == 1 else f"{parts[0].name} and {len(parts) - 1} more"
        rows.append(
            f"| {label} | {quant} | {size / 1e6:,.1f} | {bits:.2f} | {measured} | {same} | {needed(parts, size)} |"
        )
        if one:
            points.append(Point(quant, bits, one["mean"], one["low"], one["high"]))
    first = next((parts[0] for quant in PREFERRED for file, parts in files if file.endswith(f"-{quant}.gguf")), None)
    start = (first or files[0][1][0]).name
    plot = ""
    if points:
        try:
            draw(points, folder / "size-quality.png", name)
            plot = "\n![size against divergence](size-quality.svg)\n"
        except MissingDependencyError:
            plot = ""
    front = {
        "license": license_ or source.get("license") or "other",
        **({"base_model": [base_model]} if base_model else {}),
        **({"base_model_relation": "quantized"} if base_model else {}),
        "pipeline_tag": "image-text-to-text" if seeing else "text-generation",
        "library_name": "gguf",
        **({"language": source["language"]} if source.get("language") else {}),
        "tags": ["gguf", "qwen3.5", "llama.cpp", "quantized", *(["imatrix"] if imatrix else [])],
    }
    how = f", recipe {recipe}" if recipe else ""
    how += ", with the importance matrix that lies beside" if imatrix else ""
    tokens = next(iter(figures.values()))["tokens"] if figures else 0
    text = CARD.format(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        name=name,
        base=f"[{base_model}](https://huggingface.co/{base_model})" if base_model else name,
        vision=", and the vision tower is a file of its own" if seeing else "",
        contexts=" / ".join(f"{n // 1024}k" for n in CONTEXTS),
        rows="\n".join(rows),
        towers="".join(aside(path) for path in towers),
        tokens=f"{tokens:,}" if tokens else "no",
        plot=plot,
        first=start,
        mmproj=f" --mmproj {seeing[0].name}" if seeing else "",
        tag=name.lower().replace(" ", "-"),
        version=__version__,
        how=how,
    )
    return {"README.md": text, "Modelfile": modelfile(folder / start)}


def aside(path: Path) -> str:
    """Write the row of a file that cannot be run alone."""
    kind = "MTP head" if path.name.startswith("mtp-") else "vision tower"
    return f"| {path.name} | {kind} | {path.stat().st_size / 1e6:,.1f} | | | | |\n"


def needed(parts: Sequence[Path], size: int) -> str:
    """Say how many GB a model needs at each context, or that it has no such context."""
    if len(parts) > 1:
        return f"over {size / 1e9:.1f}"
    header = read_header(parts[0])
    said = []
    for n_ctx in CONTEXTS:
        fits = n_ctx <= memory.native_context(header)
        said.append(f"{memory.estimate(header, n_ctx=n_ctx).total / 1e9:.1f}" if fits else "-")
    return " / ".join(said)


def modelfile(model: Path) -> str:
    """Write Ollama's Modelfile: template, sampling of the file, and where answers end."""
    layout = read_layout(model)
    parameters = [f'PARAMETER stop "{stop}"' for stop in STOPS]
    for key, ollama in (("temp", "temperature"), ("top_k", "top_k"), ("top_p", "top_p")):
        value = layout.get(f"general.sampling.{key}")
        if value is not None:
            parameters.append(f"PARAMETER {ollama} {round(value, 4)}")
    return MODELFILE.format(file=model.name, parameters="\n".join(parameters) + "\n")


def front_matter(path: Path) -> dict[str, Any]:
    """Read the YAML at the beginning of a card; {} where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        head = text.split("---")[1] if text.startswith("---") else ""
        data = yaml.safe_load(head)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, IndexError):
        return {}
    return data if isinstance(data, dict) else {}
