"""Splits over RPC devices on loopback: the same answers as the CPU's, and what happens when a server is lost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from oracles import allocator
from oracles.rpc import free_port, rpc_server
from qwen35_gguf.cli import main
from qwen35_gguf.errors import DeviceError, RpcServerError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.context_spec import ContextSpec, MemoryRequest
from qwen35_gguf.runtime.llama import rpc
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.devices import Device, Offload
from qwen35_gguf.runtime.llama.model import Model, ModelSpec, offload_fields
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.placement import plan_placement
from qwen35_gguf.runtime.planning.plan import CPU, Machine, Plan

REQUEST = MemoryRequest(ContextSpec(256))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    port = free_port()
    with rpc_server(port):
        yield f"127.0.0.1:{port}"


def evaluate(file: Path, chosen: Offload) -> np.ndarray:
    """The logits of a prompt's last rows and of some single tokens, rolled back once between."""
    with (
        Model(file, ModelSpec(chosen, mtp=True)) as model,
        Context(model, ContextSpec(256, n_outputs=8, n_rs_seq=2)) as context,
    ):
        ids = model.tokenize("The river rises in the hills, turns east below the old mill, and reaches the sea.")
        context.evaluate(ids, 0, outputs=8)
        rows = [context.logits(len(ids) - 8 + i).copy() for i in range(8)]
        context.evaluate(ids[:2], len(ids), outputs=1)
        context.remove(len(ids) + 1)
        for i in range(3):
            context.evaluate([ids[i]], len(ids) + 1 + i, outputs=1)
            rows.append(context.logits(-1).copy())
    return np.array(rows)


def test_every_split_gives_the_logits_of_the_cpu(files: list[Path], endpoint: str) -> None:
    header = read_header(files[0])
    devices = offload.find(endpoints=(endpoint,))
    expected = evaluate(files[0], Offload())
    most = offload.most_layers(header)
    for layers in [*range(1, most + 1), offload.ALL]:
        found = evaluate(files[0], offload.choose(header, layers, devices, REQUEST, ram=0))
        np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=f"{layers} layers")


def test_what_is_on_the_cpu_is_not_computed_elsewhere(files: list[Path], endpoint: str) -> None:
    """llama.cpp knows a server from the moment it is connected to."""
    assert offload.find(endpoints=(endpoint,))
    options, keep = offload_fields(Offload())
    with allocator.loaded(files[0], weights=False, **options) as (model, _), allocator.made(model, n_ctx=256) as _:
        assert "RPC" not in allocator.log()
    del keep


def test_tensors_may_be_apart_from_their_layers(files: list[Path], endpoint: str) -> None:
    header = read_header(files[0])
    expected = evaluate(files[0], Offload())
    whole = offload.choose(header, offload.ALL, offload.find(endpoints=(endpoint,)), REQUEST, ram=0)
    for chosen in (
        offload.with_feed_forward_on_cpu(whole, header, 2),
        Offload(whole.devices, 2, (), ((r"^blk\.0\.ffn_(gate|up|down)\.", whole.devices[0].name),)),
    ):
        np.testing.assert_allclose(evaluate(files[0], chosen), expected, atol=2e-4)


def test_two_servers_share_the_layers(files: list[Path], endpoint: str) -> None:
    port = free_port()
    with rpc_server(port):
        devices = offload.find(endpoints=(endpoint, f"127.0.0.1:{port}"))
        assert [device.endpoint for device in devices] == [endpoint, f"127.0.0.1:{port}"]
        chosen = Offload(tuple(devices), 4, (3.0, 1.0))
        np.testing.assert_allclose(evaluate(files[0], chosen), evaluate(files[0], Offload()), atol=2e-4)


@pytest.mark.parametrize("draft", [0, 2])
def test_answers_are_those_of_the_cpu(files: list[Path], endpoint: str, draft: int) -> None:
    texts = []
    for options in ({}, {"rpc": (endpoint,), "n_gpu_layers": -1}, {"rpc": (endpoint,), "n_gpu_layers": 3}):
        with Qwen35(files[0], n_ctx=512, draft=draft, **options) as model:
            first = model.generate("one two three", max_tokens=24, temperature=0)
            again = model.generate("one two three four", max_tokens=8, temperature=0)
            texts.append((first.text, again.text))
    assert texts[0] == texts[1] == texts[2]


def _plan(header: GgufHeader, percent: int, device: Device) -> Plan:
    """Plan for a machine with a part of the RAM that the whole model needs."""
    whole = plan_placement(header, Machine(1 << 40), REQUEST).usage[0].used
    return plan_placement(header, Machine(whole * percent // 100, (device,)), REQUEST)


def test_a_plan_is_carried_out(files: list[Path], endpoint: str) -> None:
    header = read_header(files[0])
    devices = offload.find(endpoints=(endpoint,))
    elsewhere = replace(devices[0], shared=False)  # as if it had memory of its own
    least = next(
        plan
        for plan in (_plan(header, share, elsewhere) for share in range(99, 0, -1))
        if any(usage.device != CPU and usage.parts for usage in plan.usage)
    )
    assert 0 < least.n_gpu_layers < 6
    chosen = offload.of_plan(least, devices)
    np.testing.assert_allclose(evaluate(files[0], chosen), evaluate(files[0], Offload()), atol=2e-4)


def test_a_lost_server_is_an_error_and_its_successor_answers(files: list[Path]) -> None:
    port = free_port()
    endpoint = f"127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(rpc_server(port))
        model = stack.enter_context(Qwen35(files[0], n_ctx=2048, draft=0, rpc=(endpoint,), n_gpu_layers=-1))
        expected = model.generate("one two", max_tokens=20, temperature=0).text
        seen: list[str] = []

        def kill_soon(text: str) -> None:
            seen.append(text)
            if len(seen) == 5:
                process.kill()
                process.wait()

        with pytest.raises(RpcServerError, match=rf"RPC server {endpoint}: is gone"):
            model.generate("one two", max_tokens=1500, temperature=0, on_text=kill_soon)
        assert expected.startswith("".join(seen)[: len(expected)])  # nothing made up at the end
        with pytest.raises(RpcServerError, match=rf"RPC server {endpoint}: cannot be reached"):
            model.generate("one two", max_tokens=20, temperature=0)
        stack.enter_context(rpc_server(port))
        assert model.generate("one two", max_tokens=20, temperature=0).text == expected


def test_a_server_lost_between_requests(files: list[Path]) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(rpc_server(port))
        model = stack.enter_context(Qwen35(files[0], n_ctx=512, rpc=(f"127.0.0.1:{port}",), n_gpu_layers=3))
        expected = model.generate("one two", max_tokens=8, temperature=0).text
        process.kill()
        process.wait()
        with pytest.raises(RpcServerError):
            model.generate("three four", max_tokens=8, temperature=0)
        stack.enter_context(rpc_server(port))
        assert model.generate("one two", max_tokens=8, temperature=0).text == expected


def all_on(endpoint: str, file: Path) -> ModelSpec:
    """Put every layer on an RPC server."""
    return ModelSpec(
        offload.choose(read_header(file), offload.ALL, offload.find(endpoints=(endpoint,)), REQUEST, ram=0)
    )


def first_logits(context: Context) -> np.ndarray:
    context.clear()
    context.evaluate([1, 2, 3], 0, outputs=1)
    return context.logits(-1)


def test_loading_another_model_does_not_forget_a_lost_server(files: list[Path]) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(rpc_server(int(endpoint.rpartition(":")[2])))
        first = stack.enter_context(Model(files[0], all_on(endpoint, files[0])))
        context = stack.enter_context(Context(first, ContextSpec(256)))
        expected = first_logits(context).copy()
        process.kill()
        process.wait()
        with pytest.raises(RpcServerError, match="is gone"):
            first_logits(context)
        with Model(files[0]) as second, Context(second, ContextSpec(256)) as other:
            np.testing.assert_allclose(first_logits(other), expected, atol=2e-4)
            with pytest.raises(RpcServerError, match=f"RPC server {endpoint}: is gone"):
                first_logits(context)
            np.testing.assert_allclose(first_logits(other), expected, atol=2e-4)


def test_a_lost_server_fails_the_models_that_use_it_and_no_other(files: list[Path], endpoint: str) -> None:
    lost = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(rpc_server(int(lost.rpartition(":")[2])))
        models = [stack.enter_context(Model(files[0], all_on(server, files[0]))) for server in (lost, endpoint)]
        contexts = [stack.enter_context(Context(model, ContextSpec(256))) for model in models]
        expected = first_logits(contexts[1]).copy()
        process.kill()
        process.wait()
        with pytest.raises(RpcServerError, match=f"RPC server {lost}: is gone"):
            first_logits(contexts[0])
        np.testing.assert_array_equal(first_logits(contexts[1]), expected)
        assert [model.rpc.lost for model in models] == [[lost], []]


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "host", "host:", "host:0", "host:70000", ":1", "a b:1", "http://a:1", "host:-1"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(RpcServerError, match="is not host:port"):
        rpc.parse_endpoint(text)


def test_nobody_listens() -> None:
    with pytest.raises(RpcServerError, match="cannot be reached"):
        offload.find(endpoints=(f"127.0.0.1:{free_port()}",))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(40), "is not an RPC server"),
        (b"", "is not an RPC server"),
        ((28).to_bytes(8, "little") + bytes([3, 0, 0, 0]) + bytes(24), "version 3 of the protocol, not 7"),
    ],
)
def test_something_else_listens(answer: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(RpcServerError, match=words):
            rpc.say_hello(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_nobody_answers() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(RpcServerError, match=r"does not answer within 0 s; it serves one client at a time"),
    ):
        rpc.say_hello(f"127.0.0.1:{server.getsockname()[1]}", timeout=0.2)


def test_layers_that_are_not_there(files: list[Path], endpoint: str) -> None:
    with pytest.raises(DeviceError, match="900 layers on a GPU: .* has 6 with the output; use -1 for all"):
        Qwen35(files[0], n_ctx=256, rpc=(endpoint,), n_gpu_layers=900)
    with pytest.raises(DeviceError, match="finds none; use 0, or name RPC servers"):
        Qwen35(files[0], n_ctx=256, devices=("cpu",), n_gpu_layers=2)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_run_says_where_the_layers_are(files: list[Path], endpoint: str) -> None:
    options = ["--raw", "-n", 4, "--temp", 0, "--ctx", 256]
    code, out, err = run("run", files[0], "one two", *options, "--rpc", endpoint, "--gpu-layers", -1)
    assert code == 0, err
    assert f"all layers on RPC0 ({endpoint})" in re.sub(r"RPC\d+", "RPC0", err)  # numbered as they are met
    assert out == run("run", files[0], "one two", *options)[1]


def test_plan_includes_a_server(files: list[Path], endpoint: str) -> None:
    code, out, err = run("plan", files[0], "--rpc", endpoint, "--ctx", 256)
    assert code == 0, err
    assert "RPC" in out


@pytest.mark.parametrize("command", ["run", "plan", "tune"])
def test_a_malformed_list_of_servers(files: list[Path], command: str) -> None:
    arguments = ["Hello"] if command == "run" else []
    code, _, err = run(command, files[0], *arguments, "--rpc", "localhost:1,nowhere")
    assert code == 2
    assert "'nowhere': is not host:port" in err


def test_a_taken_port_and_a_public_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, _, err = run("rpc-server", "--listen", f"127.0.0.1:{port}")
    assert code == 2
    assert err == f"Error: 127.0.0.1:{port}: cannot listen there (Address already in use)\n"
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        code, _, err = run("rpc-server", "--listen", f"0.0.0.0:{port}")
    assert code == 2
    assert err.startswith(f"warning: 0.0.0.0:{port} can be reached by others, and the protocol has no authentication")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_ends_a_server() -> None:
    with rpc_server(free_port()) as process:
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
