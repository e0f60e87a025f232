"""The workers: they bring changed items into every live version."""
