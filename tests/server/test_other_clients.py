"""Clients that others wrote: llm, litellm, LangChain, and OpenAI's own for JavaScript; each where it is installed."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inputs.chat_requests import TOOL
from inputs.live_server import LiveServer
from oracles.paths import ROOT

pytestmark = pytest.mark.slow

CLIENTS = ROOT / "tests" / "inputs" / "clients"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "adult": {"type": "boolean"}},
    "required": ["name", "adult"],
    "additionalProperties": False,
}


def red_square() -> str:
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    data = io.BytesIO()
    pil.new("RGB", (64, 64), "red").save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def given() -> str:
    return json.dumps({"tool": TOOL, "schema": PERSON, "image": red_square()})


@pytest.mark.parametrize(
    ("package", "script"), [("litellm", "ask_litellm.py"), ("langchain_openai", "ask_langchain.py")]
)
def test_clients_chat_stream_call_tools_parse_and_know_errors(server: LiveServer, package: str, script: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, str(CLIENTS / script), server.url, given()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_llm_chats_streams_and_parses(server: LiveServer, tmp_path: Path) -> None:
    if importlib.util.find_spec("llm") is None:
        pytest.skip("llm is not installed")
    models = f"- model_id: mine\n  model_name: demo\n  api_base: {server.url}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"{models}  supports_tools: true\n  supports_schema: true\n  vision: true\n", encoding="utf-8"
    )
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}

    def llm(*arguments: str, good: bool = True) -> str:
        command = [sys.executable, "-m", "llm", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert (done.returncode == 0) == good, done.stderr[-2000:]
        return done.stdout if good else done.stderr

    plain = ("-m", "mine", "-o", "temperature", "0", "-o", "max_tokens", "40", "Hello there")
    assert llm(*plain).strip() == llm(*plain, "--no-stream").strip()
    found = llm("-m", "mine", "--schema", json.dumps(PERSON), "-o", "max_tokens", "400", "Who is it?")
    assert set(json.loads(found)) == {"name", "adult"}
    image = tmp_path / "red.png"
    image.write_bytes(base64.b64decode(red_square().partition(",")[2]))
    llm("-m", "mine", "-a", str(image), "-o", "max_tokens", "8", "What is this?")


def test_openai_for_javascript_chats_streams_calls_tools_and_parses(server: LiveServer) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if subprocess.run([node, "-e", 'require("openai")'], capture_output=True).returncode:
        pytest.skip("npm's openai is not in NODE_PATH")
    environment = os.environ | {"URL": f"{server.url}/v1", "GIVEN": given()}
    script = str(CLIENTS / "openai_javascript.cjs")
    done = subprocess.run([node, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["whole"] == found["streamed"] != ""
    assert found["tool"]["name"] == "weather"
    assert set(found["person"]) == {"name", "adult"}
    assert found["tokens"] > 64
    assert found["response"] in ("completed", "incomplete")
    assert found["errors"] == ["not found", "temperature"]
