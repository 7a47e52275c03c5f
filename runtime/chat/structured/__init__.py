"""The form that an answer must have: JSON schemas, regular expressions, grammars and tool calls, as masks of tokens."""
