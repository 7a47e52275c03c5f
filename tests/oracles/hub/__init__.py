"""Servers on localhost that stand in for the Hub."""
