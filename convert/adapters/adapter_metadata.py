"""What a GGUF file records about its adapters: the base and the adapters are its base models, as llama.cpp names them.

Source: llama.cpp gguf-py, `constants.py` (`general.base_model.*`), `metadata.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from gguf import GGUFValueType, Metadata

from qwen35_gguf.convert.adapters.adapter_folder import Adapter
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.hub.names import HUB_ID

HUB = "https://huggingface.co"
BASE_MODEL = "general.base_model."


def file_label(adapters: Sequence[Adapter]) -> str:
    """Return the adapters' names as a part of a file's name."""
    return "-".join(re.sub(r"[^\w.]+", "-", adapter.name).strip("-.") for adapter in adapters)


def with_adapters(
    entries: Sequence[KeyValue], adapters: Sequence[Adapter], *, repo: str | None, named: bool
) -> tuple[KeyValue, ...]:
    """Record in the metadata of a model which adapters were merged into which base.

    Args:
        entries: the metadata of the base.
        adapters: in the order of the merge.
        repo: the base's id on the Hub, None for a directory.
        named: `general.name` was chosen by the user.

    """
    if not adapters:
        return tuple(entries)
    base = next((str(entry.value) for entry in entries if entry.key == "general.name"), "")
    names = " ".join(adapter.name for adapter in adapters)
    changed = [_text("general.finetune", names)]
    if not named:
        changed.append(_text("general.name", f"{base} {names}"))
    changed += base_models([(base, repo or "", ""), *(_described(adapter) for adapter in adapters)])
    keys = {entry.key for entry in changed}
    kept = [e for e in entries if e.key not in keys and not e.key.startswith(BASE_MODEL)]
    return (*kept, *changed)


def base_models(models: Sequence[tuple[str, str, str]]) -> Iterator[KeyValue]:
    """Yield the entries of base models, each a name, an id on the Hub or "", and a description or ""."""
    yield KeyValue.of(f"{BASE_MODEL}count", len(models), GGUFValueType.UINT32)
    for number, (name, repo, description) in enumerate(models):
        owner, _, model = repo.rpartition("/")
        yield _text(f"{BASE_MODEL}{number}.name", _title(model) if repo else name)
        if repo:
            yield _text(f"{BASE_MODEL}{number}.organization", _title(owner))
        if description:
            yield _text(f"{BASE_MODEL}{number}.description", description)
        if repo:
            yield _text(f"{BASE_MODEL}{number}.repo_url", f"{HUB}/{repo}")


def hub_id(name: str) -> str:
    """Return a name that is an id on the Hub; "" for a path."""
    return name if HUB_ID.fullmatch(name) else ""


def _described(adapter: Adapter) -> tuple[str, str, str]:
    kind = "DoRA" if adapter.config.decomposed else "LoRA"
    return adapter.name, adapter.repo, f"{kind} adapter, merged with the scale {adapter.scale:g}"


def _title(part: str) -> str:
    """Write a part of an id as gguf-py titles it."""
    title: str = Metadata.id_to_title(part)  # type: ignore[no-untyped-call]
    return title


def _text(key: str, value: str) -> KeyValue:
    return KeyValue.of(key, value, GGUFValueType.STRING)
