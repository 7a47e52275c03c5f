"""The models of a server by name: loaded when they are asked for, unloaded when idle, or for another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from qwen35_gguf.errors import ClosedError, Qwen35Error, ServerError
from qwen35_gguf.runtime.async_model import AsyncQwen35
from qwen35_gguf.runtime.engine.snapshot import Counters, Snapshot
from qwen35_gguf.runtime.loading import planned_bytes
from qwen35_gguf.runtime.options import LoadOptions
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.server.api_error import ApiError, api_error

log = logging.getLogger(__name__)

UNAVAILABLE = 503

State = Literal["unloaded", "loading", "loaded"]


@dataclass(eq=False)
class ServedModel:
    """A model that may be asked for.

    Attributes:
        name: by which it is asked for.
        options: how it is loaded.
        model: None while it is not loaded.
        state: of the model.
        created: when its file was written, seconds since 1970.
        users: requests that run or wait for the model.
        running: of these, those that have it.
        last_use: seconds of the monotonic clock.
        needs: bytes that it takes once it is loaded.
        leaving: it is unloaded when its last user is done.
        earlier: what was counted before it was loaded this time.

    """

    name: str
    options: LoadOptions
    model: AsyncQwen35 | None = None
    state: State = "unloaded"
    created: int = 0
    users: int = 0
    running: int = 0
    last_use: float = 0.0
    needs: int = 0
    leaving: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    earlier: Counters = field(default_factory=Counters)

    def snapshot(self) -> Snapshot | None:
        """Return what the model does; None while it is not loaded."""
        try:
            return None if self.model is None else self.model.snapshot()
        except ClosedError:
            return None

    @property
    def counters(self) -> Counters:
        """What was counted so far."""
        now = self.snapshot()
        return self.earlier if now is None else self.earlier.plus(now.counters)


@dataclass(frozen=True)
class TakenModel:
    """A model that stays loaded for a request, and the name under which it is served."""

    name: str
    model: AsyncQwen35


class Models:
    """The models that a server has, of which as many are loaded as fit into the memory."""

    def __init__(
        self,
        options: Mapping[str, LoadOptions],
        *,
        aliases: Mapping[str, str] | None = None,
        memory: int | None = None,
        ttl: float | None = None,
        queue: int = 64,
    ) -> None:
        """Take the models by name; none is loaded yet.

        Args:
            options: how each is loaded.
            aliases: other names, which may have * in them, and the names that they stand for.
            memory: bytes that the loaded ones may take in total; by default what is available now.
            ttl: seconds after which an idle model is unloaded; None: never.
            queue: requests that may wait until a model is loaded; how many wait in a loaded one is its `queue_limit`.

        Raises:
            ServerError: there is no model, or an alias stands for none.

        """
        if not options:
            raise ServerError("models: there is none; name a GGUF file, or a folder with some")
        self.served = {name: ServedModel(name, each, created=_written(each.path)) for name, each in options.items()}
        self.aliases = dict(aliases or {})
        for alias, name in self.aliases.items():
            if name not in self.served:
                raise ServerError(f"alias {alias}: there is no model {name}; use {', '.join(self.served)}")
        self.memory = available_bytes() if memory is None else memory
        self.ttl, self.queue = ttl, queue
        self._loading = asyncio.Lock()
        self._ever_loaded = False

    @property
    def starting(self) -> bool:
        """Whether a model is being loaded, and none was before: then no request is answered yet.

        Later, requests for other models are answered meanwhile, and those for this one wait.
        """
        return not self._ever_loaded and any(one.state == "loading" for one in self.served.values())

    @property
    def default(self) -> ServedModel:
        """The model for requests that name none."""
        return next(iter(self.served.values()))

    def find(self, name: object) -> ServedModel:
        """Return the model of a name; without a name the first one.

        Raises:
            ApiError: there is none of that name.

        """
        if name is None:
            return self.default
        if not isinstance(name, str):
            raise ApiError(400, "model: is not a name; give a text", param="model")
        found = self.served.get(name)
        if found is None:
            target = next((one for alias, one in self.aliases.items() if fnmatchcase(name, alias)), None)
            found = self.served.get(target or "")
        if found is None:
            known = ", ".join(self.served)
            raise ApiError(404, f"model: {name[:80]!r} does not exist; use {known}", "model_not_found", "model")
        return found

    async def load(self) -> None:
        """Load the first model, if it is not loaded; no request waits for that.

        Raises:
            ApiError, Qwen35Error: it cannot be loaded.

        """
        first = self.default
        async with self._loading:
            if first.model is None:
                await self._load(first)

    @contextlib.asynccontextmanager
    async def use(self, name: object) -> AsyncIterator[TakenModel]:
        """Keep a model loaded for a block.

        Raises:
            ApiError: there is none of that name, or as many requests wait for it as may.
            Qwen35Error: it cannot be loaded.

        """
        served = self.find(name)
        waiting = served.users - served.running
        if waiting >= self.queue:
            raise ApiError(
                503, f"model: {waiting} requests wait for {served.name}; try again later", "overloaded", retry_after=5
            )
        served.users += 1
        try:
            model = await self._enter(served)
            try:
                yield TakenModel(served.name, model)
            finally:
                served.running -= 1
                served.last_use = time.monotonic()
                if not served.running:
                    served.idle.set()
        finally:
            served.users -= 1

    async def _enter(self, served: ServedModel) -> AsyncQwen35:
        """Load a model if it is not loaded, and count one request more that runs."""
        if served.model is None or served.leaving:
            async with self._loading:
                if served.model is None:
                    await self._load(served)
                served.running += 1
        else:
            served.running += 1
        assert served.model is not None
        return served.model

    async def _load(self, served: ServedModel) -> None:
        served.state = "loading"
        try:
            served.needs = await asyncio.to_thread(planned_bytes, served.options, self.memory)
            await self._make_room(served)
            model = AsyncQwen35(served.options)
            try:
                await model.load()
                await model.warm_up()
            except BaseException:
                await model.aclose()
                raise
            served.model, served.state, served.last_use = model, "loaded", time.monotonic()
            self._ever_loaded = True
            log.info("%s: loaded", served.name)
        except Qwen35Error as error:
            log.error("%s: cannot be loaded: %s", served.name, error)
            if api_error(error).status == UNAVAILABLE:  # as for want of memory: perhaps later
                raise
            # No client can mend it, nor needs to know which file it is.
            message = f"model: {served.name} cannot be loaded; the server's log has the reason"
            raise ApiError(500, message, "model_error") from None
        finally:
            if served.model is None:
                served.state = "unloaded"

    async def _make_room(self, wanted: ServedModel) -> None:
        """Unload what was not used for the longest time, until a model fits."""
        while True:
            loaded = [one for one in self.served.values() if one.model is not None]
            if not loaded or sum(one.needs for one in loaded) + wanted.needs <= self.memory:
                return
            await self._unload(min(loaded, key=lambda one: (bool(one.running), one.last_use)))

    async def _unload(self, served: ServedModel) -> None:
        """Wait until no request runs, and free a model; requests that come meanwhile load it again."""
        served.leaving = True
        try:
            while served.running:
                served.idle.clear()
                await served.idle.wait()
            served.earlier = served.counters
            model, served.model, served.state = served.model, None, "unloaded"
        finally:
            served.leaving = False
        if model is not None:
            await model.aclose()
            log.info("%s: unloaded", served.name)

    async def unload_idle(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Unload what was not used for `ttl` seconds."""
        for served in self.served.values():
            if self.ttl is None or served.model is None or served.users or self._loading.locked():
                continue
            if clock() - served.last_use >= self.ttl:
                async with self._loading:
                    if not served.users:
                        await self._unload(served)

    async def aclose(self) -> None:
        """End all requests and free all models."""
        for served in self.served.values():
            model, served.model, served.state = served.model, None, "unloaded"
            if model is not None:
                await model.aclose()


def model_files(paths: Sequence[Path]) -> dict[str, Path]:
    """List the text models of files and folders, by the names under which they are served.

    Raises:
        ServerError: two have one name, or a folder has none.

    """
    found: dict[str, Path] = {}
    for path in paths:
        for file in _in_folder(path) if path.is_dir() else [path]:
            name = file.stem.partition("-00001-of-")[0]
            if name in found and found[name] != file:
                raise ServerError(f"{file}: has the name of {found[name]}; rename one of them")
            found[name] = file
    return found


def _in_folder(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.glob("*.gguf")) if _is_first(path)]
    if not found:
        raise ServerError(f"{folder}: has no model; name a folder with GGUF files")
    return found


def _is_first(path: Path) -> bool:
    """Tell whether a file is a text model, or the first shard of one."""
    shard = path.stem.rpartition("-of-")[0]
    return not path.name.startswith(("mmproj-", "mtp-")) and (not shard or shard.endswith("-00001"))


def _written(path: Path) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0
