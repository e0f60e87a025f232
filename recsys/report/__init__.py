"""The report of a version: what its training did, as one HTML file."""
