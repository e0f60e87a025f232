"""Benchmarks that report ratios within one run: ``make bench``."""
