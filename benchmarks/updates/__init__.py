"""What full and incremental updates are worth, and what publishing costs."""
