"""Oracles that the tests compare with."""
