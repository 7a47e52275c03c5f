"""Messages to prompts, and generated text to messages, in OpenAI's forms."""
