"""A/B experiments on model versions: assignment, statistics, results."""
