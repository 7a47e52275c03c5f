"""GGUF files byte by byte: one reader, one writer, shards, and files that appear complete or not at all."""
