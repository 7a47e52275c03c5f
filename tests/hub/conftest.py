"""A stand-in for the Hub, with a release in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from oracles.hub.downloads import DownloadHub, own_cache, point_to, serve_downloads

TOKENS = [f"token-{number}" for number in range(60_000)]  # the header has more than one request brings


@pytest.fixture(scope="session")
def long_header(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file whose header takes most of it, made by gguf's own writer."""
    path = tmp_path_factory.mktemp("hub") / "long-Q8_0.gguf"
    writer = GGUFWriter(path, "qwen35")
    writer.add_token_list(TOKENS)
    writer.add_tensor("a.weight", np.zeros((64, 34), np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_header: Path) -> Iterator[DownloadHub]:
    own_cache(monkeypatch, str(tmp_path))
    data = long_header.read_bytes()
    folder = {"long-Q8_0.gguf": data, "README.md": b"about", "damaged-Q4_0.gguf": b"GGUX" + data[4:]}
    with serve_downloads({"org/name": folder}) as server:
        point_to(monkeypatch, server.address)
        yield server
