"""Ollama's Modelfile and its Go template, made from a file's chat template."""
