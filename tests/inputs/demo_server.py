"""Fixtures: the trained demo model behind a server on loopback; a conftest.py imports them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inputs.live_server import LiveServer, serving
from oracles.paths import TINY

NAME = "demo"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained demo model in Q8_0, its vision encoder beside it."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    from qwen35_gguf.convert import hf_to_gguf

    made = tmp_path_factory.mktemp("demo")
    return hf_to_gguf.convert(TINY, "Q8_0", made)[0].rename(made / f"{NAME}.gguf")


@pytest.fixture(scope="session")
def start(demo: Path) -> Iterator[Callable[..., LiveServer]]:
    """Start servers with settings of their own; they stop with the session."""
    from qwen35_gguf.runtime.media.image import MediaLimits
    from qwen35_gguf.runtime.options import LoadOptions
    from qwen35_gguf.server.app import create_app
    from qwen35_gguf.server.models import Models
    from qwen35_gguf.server.settings import ServerSettings

    limits = MediaLimits(local_files=False, https_only=True)
    options = LoadOptions(demo, n_ctx=2048, n_threads=1, draft=0, parallel=4, media_limits=limits)

    with ExitStack() as stack:

        def begin(
            names: tuple[str, ...] = (NAME,),
            models: dict[str, Any] | None = None,
            load: dict[str, Any] | None = None,
            **settings: Any,
        ) -> LiveServer:
            served = Models(dict.fromkeys(names, replace(options, **(load or {}))), **(models or {}))
            return stack.enter_context(serving(create_app(ServerSettings(**settings), served)))

        yield begin


@pytest.fixture(scope="session")
def server(start: Callable[..., LiveServer]) -> LiveServer:
    """A server with default settings."""
    return start()
