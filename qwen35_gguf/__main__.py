"""`python -m qwen35_gguf`: the command line where the folder of scripts is not on the path."""

from qwen35_gguf.cli import main

main()
