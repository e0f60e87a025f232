"""What things are called in a Django project."""

from __future__ import annotations

from recsys._wording import Wording
from recsys.errors import RecsysError, SchemaError

TERMS = Wording(
    "manage.py recsys",
    {
        SchemaError.hint: "Run 'manage.py migrate'.",
        "Set RECSYS_DSN (or PGHOST, PGUSER, ...) and": "Check DATABASES, and",
        "name it in RECSYS_DSN": "name it in DATABASES",
    },
)


def told(exc: RecsysError) -> str:
    """Return an error and its hint as one text."""
    return f"{exc}. {TERMS.of(exc.hint)}".rstrip(". ") + "."
