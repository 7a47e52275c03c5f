"""A call as its caller sees it, and who may call."""
