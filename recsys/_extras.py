"""Parts of the library that need packages of their own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from recsys.errors import TrainingError


@contextmanager
def needed(extra: str, what: str) -> Generator[None]:
    """Say what to install where an import in the block fails.

    Args:
        extra: Name of the extra, such as "train".
        what: What needs it, such as "training".

    Raises:
        TrainingError: A package is not installed.
    """
    try:
        yield
    except ImportError as exc:
        raise TrainingError(
            f"{what} needs a package that is not installed: {exc.name}",
            hint=f"pip install 'recsys[{extra}]'",
        ) from exc
