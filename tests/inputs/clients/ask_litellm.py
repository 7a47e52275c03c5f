"""litellm: python ask_litellm.py URL GIVEN, where GIVEN is JSON with a tool, a schema and an image."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # asks no server elsewhere

import litellm

url, given = sys.argv[1], json.loads(sys.argv[2])
hello = [{"role": "user", "content": "Hello there"}]
shown = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": given["image"]}}]}]


def refused(kind: type[Exception], **request: Any) -> bool:
    try:
        litellm.completion(messages=hello, **request)
    except kind:
        return True
    return False


for api, base in (("openai", f"{url}/v1"), ("anthropic", url)):
    place: dict[str, Any] = {"model": f"{api}/demo", "api_base": base, "api_key": "none", "num_retries": 0}
    whole = litellm.completion(messages=hello, temperature=0, max_tokens=16, **place)
    assert whole.usage.completion_tokens > 0
    pieces = litellm.completion(messages=hello, temperature=0, max_tokens=16, stream=True, **place)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == (whole.choices[0].message.content or "")
    brief = {"extra_body": {"reasoning_effort": "none"}} if api == "openai" else {}
    wanted = {"tools": [given["tool"]], "tool_choice": "required", "max_tokens": 400, "temperature": 0}
    called = litellm.completion(messages=hello, **wanted, **brief, **place)
    call = called.choices[0].message.tool_calls[0].function
    assert call.name == "weather"
    assert isinstance(json.loads(call.arguments), dict)
    assert litellm.completion(messages=shown, max_tokens=4, **place).usage.prompt_tokens > 64
    assert refused(litellm.NotFoundError, **(place | {"model": f"{api}/other", "max_tokens": 4}))
    assert refused(litellm.BadRequestError, temperature=-1, max_tokens=4, **place)

place = {"model": "openai/demo", "api_base": f"{url}/v1", "api_key": "none"}
form = {"type": "json_schema", "json_schema": {"name": "person", "schema": given["schema"], "strict": True}}
less = {"reasoning_effort": "none", "max_tokens": 300}
found = litellm.completion(messages=hello, response_format=form, extra_body=less, **place)
assert set(json.loads(found.choices[0].message.content)) == {"name", "adult"}
assert litellm.responses(input="Hello there", max_output_tokens=16, **place).usage.output_tokens > 0
kinds = [event.type for event in litellm.responses(input="Hello", max_output_tokens=16, stream=True, **place)]
assert kinds[0] == "response.created", kinds
assert kinds[-1] in ("response.completed", "response.incomplete"), kinds
