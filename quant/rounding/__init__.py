"""Rounding weights by the second moments of their inputs: the same types and bytes, less error in what they compute."""
