"""Models by name: which are loaded, which leave, and who waits."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inputs.chat_requests import HELLO
from inputs.live_server import LiveServer
from qwen35_gguf.errors import ServerError
from qwen35_gguf.runtime.loading import planned_bytes
from qwen35_gguf.runtime.options import LoadOptions
from qwen35_gguf.server.api_error import ApiError
from qwen35_gguf.server.models import Models, model_files

CHAT = "/v1/chat/completions"
SHORT = {"messages": HELLO, "max_tokens": 2}


@pytest.fixture(scope="module")
def options(demo: Path) -> LoadOptions:
    return LoadOptions(demo, n_ctx=2048, n_threads=1, draft=0, parallel=4)


@pytest.fixture(scope="module")
def needs(options: LoadOptions) -> int:
    return planned_bytes(options, 1 << 40)


def states(server: LiveServer) -> dict[str, str]:
    return {model["id"]: model["state"] for model in server.get("/v1/models").json["data"]}


def test_of_two_that_do_not_fit_the_idle_one_leaves(start: Callable[..., LiveServer], needs: int) -> None:
    server = start(names=("one", "two"), models={"memory": needs * 3 // 2})
    assert states(server) == {"one": "unloaded", "two": "unloaded"}
    for name, other in (("one", "two"), ("two", "one"), ("one", "two")):
        answer = server.post(CHAT, {"model": name, **SHORT})
        assert (answer.status, answer.json["model"]) == (200, name)
        assert states(server) == {name: "loaded", other: "unloaded"}


def test_two_that_fit_both_stay(start: Callable[..., LiveServer], needs: int) -> None:
    server = start(names=("one", "two"), models={"memory": needs * 2, "aliases": {"gpt-*": "two"}})
    for name in ("one", "gpt-9", "one"):
        assert server.post(CHAT, {"model": name, **SHORT}).status == 200
    assert states(server) == {"one": "loaded", "two": "loaded"}
    assert server.post(CHAT, SHORT).json["model"] == "one"


def test_requests_for_both_at_the_same_time_are_all_answered(start: Callable[..., LiveServer], needs: int) -> None:
    server = start(names=("one", "two"), models={"memory": needs * 3 // 2})
    names = ["one", "two"] * 6
    with ThreadPoolExecutor(12) as pool:
        answers = pool.map(lambda name: server.post(CHAT, {"model": name, **SHORT}), names)
    assert [answer.json["model"] for answer in answers] == names


def test_one_that_does_not_fit_at_all_is_refused(start: Callable[..., LiveServer], needs: int) -> None:
    server = start(models={"memory": needs // 2})
    answer = server.post(CHAT, SHORT)
    assert answer.status == 503
    assert "of memory" in answer.json["error"]["message"]
    assert answer.headers["retry-after"]
    assert server.get("/health").status == 200


@pytest.mark.parametrize("damage", ["missing", "damaged", "a file in place of the folder"])
def test_what_no_client_can_mend_is_a_fault_of_the_server(
    start: Callable[..., LiveServer], demo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """After the server has begun; its files are named in the log, and nowhere else."""
    path = tmp_path / "demo.gguf"
    shutil.copy(demo, path)
    server = start(names=("demo", "other"), load={"path": path, "state_dir": tmp_path / "states"})
    assert server.post(CHAT, {"model": "demo", **SHORT}).status == 200
    if damage == "missing":
        path.unlink()
    elif damage == "damaged":
        path.write_bytes(b"GGUF, once")
    else:
        shutil.rmtree(tmp_path / "states")
        (tmp_path / "states").write_text("")
    answer = server.post(CHAT, {"model": "other", **SHORT})
    assert (answer.status, answer.json["error"]["type"]) == (500, "server_error")
    assert answer.json["error"]["message"] == "model: other cannot be loaded; the server's log has the reason"
    assert str(tmp_path) in caplog.text
    assert server.get("/health").status == 200


def test_an_idle_model_is_unloaded_and_loaded_again(start: Callable[..., LiveServer]) -> None:
    server = start(models={"ttl": 0.01})
    assert server.post(CHAT, SHORT).status == 200
    end = time.monotonic() + 60
    while states(server) != {"demo": "unloaded"}:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert server.post(CHAT, SHORT).status == 200


def test_a_model_in_use_leaves_when_its_last_request_is_over(options: LoadOptions, needs: int) -> None:
    async def main() -> None:
        models = Models({"one": options, "two": options}, memory=needs * 3 // 2)
        one, two = models.served.values()
        async with models.use("one"):
            other = asyncio.ensure_future(models.use("two").__aenter__())
            while not one.leaving:
                await asyncio.sleep(0.01)
            late = asyncio.ensure_future(models.use("one").__aenter__())
            await asyncio.sleep(0.05)
            assert not other.done()
            assert not late.done()
        await other
        assert (one.model, two.state) == (None, "loaded")
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        assert one.users == 0
        await models.aclose()

    asyncio.run(main())


def test_who_waits_beyond_the_queue_for_a_model_is_refused(options: LoadOptions, needs: int) -> None:
    async def main() -> None:
        models = Models({"one": options, "two": options}, memory=needs * 3 // 2, queue=2)
        async with models.use("one"):
            waiting = [asyncio.ensure_future(models.use("two").__aenter__()) for _ in range(2)]
            await asyncio.sleep(0.1)
            with pytest.raises(ApiError, match="2 requests wait for two") as refused:
                async with models.use("two"):
                    pass
            assert refused.value.status == 503
            assert refused.value.headers == {"Retry-After": "5"}
        assert {taken.name for taken in await asyncio.gather(*waiting)} == {"two"}
        await models.aclose()

    asyncio.run(main())


def test_what_is_loaded_at_the_start_is_no_request_that_waits(options: LoadOptions) -> None:
    async def main() -> None:
        models = Models({"one": options}, queue=1, ttl=60)
        loading = asyncio.ensure_future(models.load())
        await asyncio.sleep(0)
        assert models.starting
        async with models.use("one") as taken:  # the one request that may wait
            assert taken.name == "one"
        await loading
        await models.unload_idle()
        assert models.default.state == "loaded"
        await models.aclose()

    asyncio.run(main())


def test_files_are_found_in_folders(tmp_path: Path) -> None:
    names = ("a.gguf", "mmproj-a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "c.txt")
    for name in names:
        (tmp_path / name).touch()
    assert list(model_files([tmp_path])) == ["a", "b"]
    assert list(model_files([tmp_path / "a.gguf", tmp_path])) == ["a", "b"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.gguf").touch()
    with pytest.raises(ServerError, match="has the name of"):
        model_files([tmp_path, tmp_path / "other"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ServerError, match="has no model"):
        model_files([tmp_path / "empty"])
    with pytest.raises(ServerError, match="alias x: there is no model y"):
        Models({"a": LoadOptions(tmp_path / "a.gguf")}, aliases={"x": "y"})
