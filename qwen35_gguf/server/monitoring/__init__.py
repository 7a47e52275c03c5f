"""What the operator sees of a server: a log of its requests, and counts."""
