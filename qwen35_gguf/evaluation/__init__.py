"""Measure quality: KL divergence, importance matrices, sensitivity of tensors, parity with the checkpoint."""
