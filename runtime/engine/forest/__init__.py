"""What is known of earlier prompts: shared cells, states in memory and on disk."""
