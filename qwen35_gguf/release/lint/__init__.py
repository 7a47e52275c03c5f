"""Checks of a GGUF file; one module for each kind of fault."""
