"""What tests are given: weights, headers, clips, messages."""
