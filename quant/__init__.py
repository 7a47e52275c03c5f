"""Which type each tensor gets, and how it is packed."""
