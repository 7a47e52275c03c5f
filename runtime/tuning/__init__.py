"""Find the fastest settings by measuring, and keep them."""
