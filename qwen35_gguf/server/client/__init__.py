"""Ask servers for chats: ours, or others with the API of OpenAI."""
