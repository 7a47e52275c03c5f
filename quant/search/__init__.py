"""Which type each tensor gets under a size limit: measured costs, a knapsack, a recipe."""
