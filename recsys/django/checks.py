"""System checks; grown below."""


def register_all() -> None:
    """Register the checks."""
