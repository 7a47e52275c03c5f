"""What a publisher does with GGUF files: cut and join them, correct their metadata, check them before users do."""
