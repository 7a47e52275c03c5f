"""Ollama's Modelfile and its Go template, made from the chat template of a GGUF."""
