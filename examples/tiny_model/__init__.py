"""What examples/train_tiny.py trains with: a seeded corpus, drawn images, and the network."""
