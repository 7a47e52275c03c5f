"""What is drafted: by the MTP head, by n-grams that came before, and how much of it pays."""
