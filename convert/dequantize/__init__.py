"""Quantized checkpoints as sources: their weights are dequantized to F32, rows by rows, while they are read."""
