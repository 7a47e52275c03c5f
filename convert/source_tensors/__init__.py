"""The tensors of a checkpoint: what they are called, to which part they belong, and why they do not fit."""
