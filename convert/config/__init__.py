"""What config.json and the model card mean: which of two places for one thing counts, and which keys are known."""
