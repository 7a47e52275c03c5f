"""GGUF LoRAs beside a model: their files, and what llama.cpp loads of them."""
