"""Every error this package raises on purpose.

    RecsysError
    |__ ConfigError             settings, recsys.toml or an argument are malformed
    |__ SourceError             an item, user or interaction source fails
    |__ SchemaError             the database is not at the revision this release needs
    |__ DatabaseUnavailable     no connection, or pgvector is missing or too old
    |__ ModelError
    |   |__ UnknownModel        no model of that name is registered (LookupError)
    |   |__ UnknownVersion      the model has no version of that number (LookupError)
    |   |__ UnknownItem         the version has no vector for an item (LookupError)
    |   |__ VersionStateError   the version is not in a state that allows the operation
    |   |__ ArtifactError       an artifact is missing, corrupted or misfit
    |__ TrainingError           training cannot start, or failed and left nothing behind

Driver errors (``psycopg.Error``) pass through unchanged unless one of these says more.
"""

from __future__ import annotations


class RecsysError(Exception):
    """The root of every error this package raises on purpose.

    Attributes:
        hint: One sentence that says what to do. A traceback shows it as a note.
    """

    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint
        if self.hint:
            self.add_note(f"Hint: {self.hint}")

    def reword(self, hint: str) -> None:
        """Replace the hint, in the traceback, too."""
        before = f"Hint: {self.hint}"
        self.hint = hint
        notes: list[str] = getattr(self, "__notes__", [])
        if before in notes:
            notes[notes.index(before)] = f"Hint: {hint}"


class ConfigError(RecsysError, ValueError):
    """Settings, recsys.toml or an argument are missing or malformed."""


class SourceError(RecsysError):
    """An item, user or interaction source fails or returns bad rows."""


class SchemaError(RecsysError):
    """The database is not at the revision this release needs."""

    hint = "Run 'recsys upgrade'."


class DatabaseUnavailable(RecsysError):
    """There is no usable connection, or pgvector is missing or too old."""

    hint = "Set RECSYS_DSN (or PGHOST, PGUSER, ...) and run 'recsys doctor'."


class ModelError(RecsysError):
    """A model or one of its versions cannot do what was asked."""


class UnknownModel(ModelError, LookupError):
    """No model of that name is registered."""

    hint = "'recsys versions' lists the models; 'recsys train MODEL' makes one."


class UnknownVersion(ModelError, LookupError):
    """The model has no version of that number."""

    hint = "'recsys versions MODEL' lists them."


class UnknownItem(ModelError, LookupError):
    """The version has no vector for an item."""

    hint = "'recsys worker' brings new items; without it, the next 'recsys backfill'."


class VersionStateError(ModelError):
    """The version is not in a state that allows the operation."""


class ArtifactError(ModelError):
    """An artifact is missing, corrupted or does not fit its tables."""


class TrainingError(RecsysError):
    """Training cannot start, or failed and left nothing behind."""
