"""What a publisher does with GGUF files: package, check, describe and upload them."""
