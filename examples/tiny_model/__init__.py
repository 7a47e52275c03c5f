"""What examples/train_tiny.py trains with: a seeded corpus, drawn pictures, and the network."""
