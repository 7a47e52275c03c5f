"""What config.json means: which of two places for one thing counts, and which keys are known."""
