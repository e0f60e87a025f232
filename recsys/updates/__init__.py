"""Incremental updates: learned rows move with new interactions, the towers stay."""
