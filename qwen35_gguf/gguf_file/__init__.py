"""Read and write GGUF files: one reader, one writer, sets of shards."""
