"""Memory: what a model needs, what this computer has, and what goes where."""
