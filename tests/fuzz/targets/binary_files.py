"""Binary files of other formats: safetensors, reference logits, states of sequences, tokenizers."""

from __future__ import annotations

import json

import numpy as np

from fuzz.target import Target, as_file, scratch
from qwen35_gguf.convert.source_tensors.safetensors_header import read_header
from qwen35_gguf.evaluation import logits_file
from qwen35_gguf.runtime.engine.forest.prefix_cache import SequenceState
from qwen35_gguf.runtime.engine.forest.state_store import StateStore


def read_safetensors(data: bytes) -> None:
    """Read the header of a shard."""
    read_header(as_file("model.safetensors", data))


def safetensors_seeds() -> list[bytes]:
    """Two tensors and metadata."""
    header = {
        "__metadata__": {"format": "pt"},
        "model.a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "model.b.weight": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
    }
    text = json.dumps(header).encode()
    return [len(text).to_bytes(8, "little") + text + bytes(22), b"version https://git-lfs"]


def read_logits(data: bytes) -> None:
    """Read a file of log-probabilities, all rows."""
    path = as_file("x.logits", data)
    header = logits_file.read_header(path)
    with path.open("rb") as file:
        for number in range(min(4, len(header.tokens))):
            rows = logits_file.read_rows(file, header, number, range(logits_file.scored(header.chunk)))
            with np.errstate(all="ignore"):
                logits_file.encode(rows)
    assert logits_file.is_logits(path)


def logits_seeds() -> list[bytes]:
    """One chunk of six tokens."""
    path = scratch() / "seed.logits"
    header = logits_file.Header(6, 5, np.array([[0, 1, 2, 3, 4, 0]], np.int32))
    with logits_file.writing(path, header) as file:
        file.write(logits_file.encode(np.eye(5, dtype=np.float32)[: logits_file.scored(6)]).tobytes())
    return [path.read_bytes()]


NAME = f"{'0' * 32}.state"


def read_states(data: bytes) -> None:
    """Open a folder with a state, look for prefixes in it, read it."""
    folder = scratch() / "states"
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_bytes(data)
    store = StateStore(folder, "m")
    store.covers([1, 2, 3])
    for state in store.newest(3):
        found = store.read(state)
        if found is not None:
            assert found.items == state.items
            store.path(found.items)
            store.save(found)
        store.forget(state)
    assert store.covers([1]) == 0 or store.states


def state_seeds() -> list[bytes]:
    """A state with a hidden state, and an image in its prefix."""
    store = StateStore(scratch() / "seed-states", "m")
    hidden = np.arange(4, dtype=np.float32)
    return [store.save(SequenceState([1, 2, "image"], 5, 9, np.zeros(16, np.uint8), hidden)).read_bytes()]


TARGETS = (
    Target(
        "safetensors",
        read_safetensors,
        safetensors_seeds,
        ("qwen35_gguf.convert.source_tensors.safetensors_header",),
        ('"dtype"', '"shape"', '"data_offsets"', "BF16", "F8_E4M3", "I64"),
    ),
    Target("logits", read_logits, logits_seeds, ("qwen35_gguf.evaluation.logits_file",), ("_logits_",)),
    Target(
        "states",
        read_states,
        state_seeds,
        ("qwen35_gguf.runtime.engine.forest.state_store",),
        ('"identity"', '"items"', '"n_pos"', '"sizes"', "qwen35 state 1\n"),
    ),
)
