"""What can be offered to somebody who names no model: those that are here, and sizes that fit this machine."""
