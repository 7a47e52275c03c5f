"""What `qwen35` alone prints: the three things that people come for, with their commands."""

from __future__ import annotations

from qwen35_gguf.llama_package import installed_runtime

STEPS = """\
Qwen3.5 from a Hugging Face checkpoint to a fast, proven GGUF on a laptop.

Run a model
  qwen35 run                                            what is here, or what fits this machine
  qwen35 run USER/NAME:Q4_K_M "Hello"                   a GGUF of the Hub; chat and serve take the same

Convert one
  qwen35 convert Qwen/Qwen3.5-4B -q Q4_K_M              writes models/Qwen3.5-4B-Q4_K_M.gguf
  qwen35 run models/Qwen3.5-4B-Q4_K_M.gguf "Hello"

Publish one
  qwen35 package Qwen/Qwen3.5-4B -o release             several quants, measured, with a model card
  qwen35 publish release --repo USER/NAME

qwen35 --help lists all commands; qwen35 doctor finds what is wrong with the installation or the machine."""
MISSING = "\nFirst: llama.cpp, which runs the models, is not installed yet. `qwen35 setup` installs it."


def welcome() -> str:
    """Return the text, with what must be done first."""
    return STEPS if installed_runtime() is not None else STEPS + MISSING
