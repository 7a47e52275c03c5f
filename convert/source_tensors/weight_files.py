"""Which files of a checkpoint's directory hold its weights.

transformers takes the file that config.json names in `transformers_weights`, else `model.safetensors`, else the files
that `model.safetensors.index.json` names, and looks at nothing else. Without all three it gives up; here the numbered
parts `model-00001-of-00003.safetensors` are taken if none is missing, then whatever else is not known to be something
else than the model.

Source: transformers modeling_utils.py (_get_resolved_checkpoint_files).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qwen35_gguf.convert.source_tensors.names import canonical_name
from qwen35_gguf.convert.source_tensors.parts import Parts
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.inner_path import is_file, is_inside
from qwen35_gguf.json_file import OBJECT, TEXT, JsonObject, map_of, printable, read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth")
NUMBERED = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
# Beside the weights of a model: an adapter, a second copy in other names or types, what a training saves.
ADAPTER = re.compile(r"adapter_.*\.safetensors")
FOREIGN = re.compile(r"(consolidated|optimizer|scheduler|training|rng_state|model\.(fp16|bf16|fp32)[.-]).*safetensors")


class WeightFiles(NamedTuple):
    """The files of the wanted parts, what the index promises (empty without one), and what to tell the user."""

    paths: list[Path]
    weight_map: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()


def find_weight_files(directory: Path, config: Mapping[str, Any], parts: Parts) -> WeightFiles:
    """Find the files of the wanted parts.

    Raises:
        CheckpointError: there are none, or the index is damaged, names absent files, or files outside of the directory.

    """
    named = JsonObject(config, str(directory / "config.json")).get("transformers_weights", TEXT)
    if named is not None:
        return _named(directory, named, parts)
    if (directory / SINGLE).is_file():
        return WeightFiles([directory / SINGLE], notes=tuple(_index_beside(directory)))
    if (directory / INDEX).is_file():
        return _indexed(directory, INDEX, parts)
    return _without_index(directory)


def index_entries(directory: Path, name: str = INDEX) -> dict[str, str]:
    """Read which tensor the index promises in which file. Raises CheckpointError if it is damaged."""
    return read_json(directory / name).need("weight_map", map_of(TEXT))


def wanted_shards(weight_map: Mapping[str, str], parts: Parts) -> list[str]:
    """List the files of an index that hold tensors of the wanted parts."""
    return sorted({file for name, file in weight_map.items() if parts.wants(canonical_name(name))})


def check_index(directory: Path, weight_map: Mapping[str, str], held: set[str], parts: Parts) -> None:
    """Check that every wanted tensor of the index was found. Raises CheckpointError."""
    missing = sorted(name for name in weight_map if name not in held and parts.wants(canonical_name(name)))
    if missing:
        raise CheckpointError(
            f"{directory}: {len(missing)} tensors of the index are in no shard, first {printable(missing[0])} "
            f"(expected in {printable(weight_map[missing[0]])}); download that shard again"
        )


def _named(directory: Path, name: str, parts: Parts) -> WeightFiles:
    """Take what config.json names: a file, or an index."""
    _check_inside(directory / "config.json", "transformers_weights", name)
    if not is_file(directory / name):
        raise CheckpointError(
            f"{directory / 'config.json'}: transformers_weights is {printable(name)}, which is absent; "
            "download it, or remove the entry"
        )
    if name.endswith(".index.json"):
        return _indexed(directory, name, parts)
    note = f"config.json names {name} in transformers_weights: it is read, and no other file"
    return WeightFiles([directory / name], notes=(note,) if (directory / SINGLE).is_file() and name != SINGLE else ())


def _index_beside(directory: Path) -> list[str]:
    """Describe an index that does not count, because the whole file is there."""
    path = directory / INDEX
    if not path.is_file():
        return []
    try:
        entries = read_json(path).get("weight_map", OBJECT, {})
    except CheckpointError:
        entries = {}
    files = sorted({str(file) for file in entries.values()} - {SINGLE})
    if not files and entries:
        return []
    what = (
        f"names {', '.join(map(printable, files[:2]))}{' and others' if len(files) > 2 else ''}"
        if files
        else "is damaged"
    )
    return [f"{SINGLE} counts, as in transformers, not {INDEX}, which {what}: remove the one that is out of date"]


def _indexed(directory: Path, name: str, parts: Parts) -> WeightFiles:
    weight_map = index_entries(directory, name)
    shards = wanted_shards(weight_map, parts)
    for shard in shards:
        _check_inside(directory / name, "weight_map", shard)
        if Path(shard).suffix in PICKLED:
            raise CheckpointError(
                f"{directory / name}: names {printable(shard)}, which is pickled and not read; save the model again "
                "with safetensors"
            )
        if not is_file(directory / shard):
            raise CheckpointError(
                f"{directory}: shard {printable(shard)} is named in the index but absent; download it again"
            )
    return WeightFiles([directory / shard for shard in shards], weight_map)


def _check_inside(path: Path, key: str, name: str) -> None:
    if not is_inside(name, nested=False):
        shown = printable(name) or "''"
        raise CheckpointError(
            f"{path}: {key} names {shown}, which points outside the directory; do not trust this checkpoint"
        )


def _without_index(directory: Path) -> WeightFiles:
    found = sorted(path.name for path in directory.glob("*.safetensors"))
    numbered = {name: match for name in found if (match := NUMBERED.fullmatch(name))}
    if numbered:
        counts = sorted({match[2] for match in numbered.values()})
        expected = [f"model-{number:05}-of-{counts[0]}.safetensors" for number in range(1, int(counts[0]) + 1)]
        absent = [name for name in expected if name not in numbered]
        if absent or len(counts) > 1:
            problem = f"{absent[0]} is absent" if absent else f"has parts of {counts[0]} and of {counts[1]} files"
            raise CheckpointError(f"{directory}: {problem}, and there is no {INDEX}; download the checkpoint again")
        note = f"no {INDEX}: the {len(expected)} numbered files are read, which transformers would not do"
        return WeightFiles([directory / name for name in expected], notes=(note,))
    model = [name for name in found if not ADAPTER.fullmatch(name)]
    plain = [name for name in model if not FOREIGN.fullmatch(name)]
    plain = plain or [name for name in model if name.startswith("model.")] or model
    if plain:
        note = f"neither {SINGLE} nor {INDEX}: {', '.join(plain[:3])} read instead, which transformers would not do"
        return WeightFiles([directory / name for name in plain], notes=(note,))
    if found:
        raise CheckpointError(
            f"{directory}: {found[0]} is an adapter, not a model; convert its base model, and give this directory as "
            "--adapter"
        )
    pickled = sorted(path.name for path in directory.glob("*.bin"))
    what = f"{pickled[0]} is pickled, which is not read" if pickled else "download the weights, too"
    raise CheckpointError(f"{directory}: no *.safetensors files; {what}")
