"""Sums of the inputs of matmuls over the two halves of a text, and what one half tells about the other."""
