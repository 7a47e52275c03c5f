"""The model card: what it shows, and how it is made again around what its publisher wrote."""
