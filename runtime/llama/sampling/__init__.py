"""From the logits of a row to a token."""
