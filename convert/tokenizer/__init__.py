"""The tokenizer of a checkpoint: the files that count, and the `tokenizer.*` keys of a GGUF file."""
