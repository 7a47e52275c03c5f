"""The tags of Qwen3.5's output: tokens that are text, unlike control tokens, and mean something to programs.

Source: the published tokenizer.json (`added_tokens` that are not special) and chat template.
"""

THINK, END_THINK = "<think>", "</think>"
TOOL_CALL, END_TOOL_CALL = "<tool_call>", "</tool_call>"
TOOL_RESPONSE, END_TOOL_RESPONSE = "<tool_response>", "</tool_response>"
TAGS = (THINK, END_THINK, TOOL_CALL, END_TOOL_CALL, TOOL_RESPONSE, END_TOOL_RESPONSE)
