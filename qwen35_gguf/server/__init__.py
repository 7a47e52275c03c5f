"""The HTTP server of `qwen35 serve`: models by name behind the APIs that existing clients speak."""
