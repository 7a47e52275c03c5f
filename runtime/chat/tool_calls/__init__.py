"""Tool calls: from the text of an answer to OpenAI's objects, and from a request to what the template reads."""
