"""Calibration and evaluation texts, and their tokens in a model's own vocabulary."""
