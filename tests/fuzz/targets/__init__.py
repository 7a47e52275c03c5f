"""The parsers by name."""

from __future__ import annotations

from fuzz.target import Target
from fuzz.targets import binary_files, gguf_files, grammars, json_files, media, requests, templates, texts

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (gguf_files, binary_files, json_files, texts, grammars, templates, requests, media)
    for target in module.TARGETS
}
