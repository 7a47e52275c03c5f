"""A module for each API: which request it takes, and the form of its answer."""
