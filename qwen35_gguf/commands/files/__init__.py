"""Work with GGUF files."""
