"""Item and user ids: checked against the model's types before SQL sees them."""

from __future__ import annotations

from uuid import UUID

from recsys.config import IdType
from recsys.errors import ConfigError
from recsys.types import ItemId

_CONVERT = {
    "bigint": "Convert it: int(value).",
    "uuid": "Convert it: uuid.UUID(value).",
    "text": "Convert it: str(value).",
}


def check_id(name: str, value: object, id_type: IdType) -> None:
    """Refuse an id of another type than the model's.

    Raises:
        ConfigError: It is not of the type, or out of its range.
    """
    good = (
        (type(value) is int and -(2**63) <= value < 2**63)
        if id_type == "bigint"
        else isinstance(value, UUID if id_type == "uuid" else str)
    )
    if not good or (isinstance(value, str) and not _storable(value)):
        raise ConfigError(
            f"{name} must be {id_type}, got {type(value).__name__} {str(value)[:80]!r}",
            hint=_hint(value, id_type),
        )


def _hint(value: object, id_type: IdType) -> str:
    """Say how a value becomes an id, or why none ever does."""
    if type(value) is int and id_type == "bigint":
        return (
            "bigint holds -2^63 to 2^63 - 1, and no id of the sources can be outside."
            " Ids that are, such as hashes of 64 bits without a sign, are text: select"
            " them as text and declare the id's type in recsys.toml."
        )
    if isinstance(value, str) and id_type == "text":
        return "Postgres holds no NUL and no lone surrogate: the id cannot be there."
    return _CONVERT[id_type]


def parse_id(name: str, text: str, id_type: IdType) -> ItemId:
    """Read an id from text, such as a command-line argument or a CSV cell.

    Raises:
        ConfigError: The text is not of the type.
    """
    value: ItemId = text
    try:
        if id_type == "bigint":
            value = int(text)
        elif id_type == "uuid":
            value = UUID(text)
    except ValueError as exc:
        raise ConfigError(f"{name} must be {id_type}, got {text[:80]!r}") from exc
    check_id(name, value, id_type)
    return value


def _storable(text: str) -> bool:
    """Say whether Postgres can hold the text: no NUL, no lone surrogates."""
    try:
        return b"\x00" not in text.encode()
    except UnicodeEncodeError:
        return False


def collation(id_type: IdType) -> str:
    """Return the collation that orders text ids alike in every database and in Python.

    Ids of other types have their own order.
    """
    return ' collate "C"' if id_type == "text" else ""
