"""A thin runtime over llama-cpp-python for Qwen3.5."""
