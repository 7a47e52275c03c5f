"""The stock converter."""

from oracles.converter import stock_convert, stock_tree

__all__ = ["stock_convert", "stock_tree"]
