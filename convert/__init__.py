"""Checkpoint to GGUF. Pure Python and numpy; no torch at run time."""
