"""Tools and histories of a request are checked, and decoded for the template."""

from __future__ import annotations

import pytest

from qwen35_gguf.errors import ToolError
from qwen35_gguf.runtime.chat.tool_calls.checks import check_tools, for_template

pytestmark = pytest.mark.unit


def test_a_request_is_checked() -> None:
    assert check_tools([{"name": "f"}]) == [{"type": "function", "function": {"name": "f"}}]
    for tools in [
        "f",
        [1],
        [{"function": {}}],
        [{"name": "a b"}],
        [{"name": "f"}, {"name": "f"}],
        [{"name": "f", "parameters": 1}],
        [{"name": "f" * 5000, "parameters": 1}],
    ]:
        with pytest.raises(ToolError, match="^tools: .{0,200}$"):
            check_tools(tools)


def test_a_history_is_checked_and_decoded() -> None:
    function = {"name": "order", "arguments": '{"count": 2}'}
    call = {"id": "call_1", "type": "function", "function": function}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "done"}
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}, result]
    decoded = for_template(history)
    assert decoded[1]["tool_calls"][0]["function"]["arguments"] == {"count": 2}
    assert decoded[2] == result
    assert history[1]["tool_calls"][0]["function"]["arguments"] == '{"count": 2}'  # the caller's own is left alone
    bad = {"id": "x", "function": {"name": "f", "arguments": "{"}}
    for messages, message in [
        ([history[0], result], "unknown call 'call_1'"),
        ([history[0], {"role": "tool", "content": "x"}], "no call before it"),
        ([{"role": "assistant", "tool_calls": [bad]}], "the arguments of f are not JSON"),
        ([{"role": "assistant", "tool_calls": 5}], "tool_calls is not a list"),
        ([{"role": "assistant", "tool_calls": {"function": {"name": "f"}}}], "tool_calls is not a list"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}], "not a JSON object"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "no function with a name"),
    ]:
        with pytest.raises(ToolError, match=message):
            for_template(messages)
