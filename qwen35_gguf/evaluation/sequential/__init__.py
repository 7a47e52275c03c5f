"""One layer after the other: moments of its inputs after quantized layers, and its weights rounded by them."""
