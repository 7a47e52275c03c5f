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

from inputs.chat_requests import HELLO, TOOL
from inputs.live_server import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of these packages

FORECAST = [{"role": "user", "content": "What is the weather in Paris?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "adult": {"type": "boolean"}},
    "required": ["name", "adult"],
    "additionalProperties": False,
}
BRIEF: dict[str, Any] = {"temperature": 0, "max_tokens": 300, "reasoning_effort": "none"}


def red_square() -> str:
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    data = io.BytesIO()
    pil.new("RGB", (64, 64), "red").save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def picture() -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": red_square()}}]
    return [{"role": "user", "content": parts}]


# ---- litellm ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # asks no server elsewhere
    found = pytest.importorskip("litellm", reason="litellm is not installed")
    found.drop_params, found.telemetry = False, False
    return found


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_litellm_chats_streams_and_calls_tools(litellm: Any, server: LiveServer, api: str) -> None:
    base = f"{server.url}/v1" if api == "openai" else server.url
    place = {"model": f"{api}/demo", "api_base": base, "api_key": "none", "num_retries": 0}
    whole = litellm.completion(messages=HELLO, temperature=0, max_tokens=16, **place)
    text = whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0
    streamed = list(litellm.completion(messages=HELLO, temperature=0, max_tokens=16, stream=True, **place))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == (text or "")
    called = litellm.completion(messages=FORECAST, tools=[TOOL], tool_choice="required", max_tokens=300, **place)
    (call,) = called.choices[0].message.tool_calls[:1]
    assert call.function.name == "weather"
    assert isinstance(json.loads(call.function.arguments), dict)
    assert litellm.completion(messages=picture(), max_tokens=4, **place).usage.prompt_tokens > 64
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=HELLO, **(place | {"model": f"{api}/other"}))
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(messages=HELLO, temperature=-1, max_tokens=4, **place)


def test_litellm_parses_schemas_and_responses(litellm: Any, server: LiveServer) -> None:
    place = {"model": "openai/demo", "api_base": f"{server.url}/v1", "api_key": "none"}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    whole = litellm.completion(messages=HELLO, response_format=form, extra_body=BRIEF, **place)
    assert set(json.loads(whole.choices[0].message.content)) == {"name", "adult"}
    response = litellm.responses(input="Hello there", max_output_tokens=16, **place)
    assert response.usage.output_tokens > 0
    kinds = [event.type for event in litellm.responses(input="Hello", max_output_tokens=16, stream=True, **place)]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


# ---- LangChain -------------------------------------------------------------------------------------------------------


def test_langchain_chats_streams_calls_tools_and_parses(server: LiveServer) -> None:
    openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    place = {"base_url": f"{server.url}/v1", "api_key": "none", "model": "demo", "max_retries": 0}
    chat = openai.ChatOpenAI(temperature=0, max_tokens=16, **place)
    whole = chat.invoke("Hello there")
    pieces = list(chat.stream("Hello there"))
    assert "".join(piece.content for piece in pieces) == whole.content
    assert whole.usage_metadata["output_tokens"] > 0
    brief = openai.ChatOpenAI(temperature=0, max_tokens=300, reasoning_effort="none", **place)
    called = brief.bind_tools([TOOL], tool_choice="required").invoke("What is the weather in Paris?")
    assert called.tool_calls[0]["name"] == "weather"
    person = brief.with_structured_output({"title": "person", **PERSON}, method="json_schema").invoke("Who is it?")
    assert set(person) == {"name", "adult"}
    assert chat.invoke(picture()).usage_metadata["input_tokens"] > 64
    assert openai.ChatOpenAI(use_responses_api=True, max_tokens=16, **place).invoke("Hello there").usage_metadata
    with pytest.raises(Exception, match="'other' does not exist"):
        openai.ChatOpenAI(**(place | {"model": "other"})).invoke("Hello")


# ---- llm -------------------------------------------------------------------------------------------------------------


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
        assert (done.returncode == 0) == good, done.stderr
        return done.stdout if good else done.stderr

    plain = ("-m", "mine", "-o", "temperature", "0", "-o", "max_tokens", "40", "Hello there")
    assert llm(*plain).strip() == llm(*plain, "--no-stream").strip()
    found = llm("-m", "mine", "--schema", json.dumps(PERSON), "-o", "max_tokens", "400", "Who is it?")
    assert set(json.loads(found)) == {"name", "adult"}
    image = tmp_path / "red.png"
    image.write_bytes(base64.b64decode(red_square().partition(",")[2]))
    llm("-m", "mine", "-a", str(image), "-o", "max_tokens", "8", "What is this?")
    assert "temperature" in llm("-m", "mine", "-o", "temperature", "-1", "Hello", good=False)


# ---- OpenAI's client for JavaScript ----------------------------------------------------------------------------------

SCRIPT = """
const { OpenAI, NotFoundError, BadRequestError } = require("openai");
const client = new OpenAI({ baseURL: process.env.URL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello there" }];
const place = { model: "demo", messages, temperature: 0, max_tokens: 300, reasoning_effort: "none" };
const { tool, schema, image } = JSON.parse(process.env.GIVEN);
(async () => {
  const found = {};
  found.whole = (await client.chat.completions.create(place)).choices[0].message.content;
  found.streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...place, stream: true }))
    found.streamed += chunk.choices[0]?.delta.content ?? "";
  found.tool = (await client.chat.completions.stream({ ...place, tools: [tool], tool_choice: "required" })
    .finalChatCompletion()).choices[0].message.tool_calls[0].function;
  const form = { type: "json_schema", json_schema: { name: "person", schema, strict: true } };
  found.person = (await client.chat.completions.parse({ ...place, response_format: form })).choices[0].message.parsed;
  const parts = [{ type: "image_url", image_url: { url: image } }];
  found.tokens = (await client.chat.completions.create({ ...place, max_tokens: 2, messages: [{ role: "user",
    content: parts }] })).usage.prompt_tokens;
  found.response = (await client.responses.create({ model: "demo", input: "Hello", max_output_tokens: 8 })).status;
  found.errors = [];
  for (const wrong of [{ model: "other" }, { temperature: -1 }])
    await client.chat.completions.create({ ...place, ...wrong }).catch((error) => found.errors.push(
      error instanceof NotFoundError ? "not found" : error instanceof BadRequestError ? error.param : String(error)));
  console.log(JSON.stringify(found));
})();
"""


def test_openai_for_javascript_chats_streams_calls_tools_and_parses(server: LiveServer) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if subprocess.run([node, "-e", 'require("openai")'], capture_output=True).returncode:
        pytest.skip("npm's openai is not in NODE_PATH")
    given = json.dumps({"tool": TOOL, "schema": PERSON, "image": red_square()})
    environment = os.environ | {"URL": f"{server.url}/v1", "GIVEN": given}
    done = subprocess.run([node, "-e", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["whole"] == found["streamed"] != ""
    assert found["tool"]["name"] == "weather"
    assert set(found["person"]) == {"name", "adult"}
    assert found["tokens"] > 64
    assert found["response"] in ("completed", "incomplete")
    assert found["errors"] == ["not found", "temperature"]
