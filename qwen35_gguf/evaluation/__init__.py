"""What quantization costs, which weights matter, and whether a file computes what its checkpoint does."""
