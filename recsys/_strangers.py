"""Users and items of a holdout that nobody knows: ids of another table, most often."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from recsys import _sql
from recsys._db import Connection
from recsys._wording import counted
from recsys.errors import SourceError
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion

_OTHER_IDS = "Are these ids of another table, or another export? Compare them with the"
_MANY = 0.1
"""Share of unknown users, or of hits on unknown items, from which on it is said."""


def known_items(
    conn: Connection, asked: Sequence[ModelVersion], hits: Iterable[Collection[ItemId]]
) -> set[ItemId]:
    """Return the items among the hits that a version has a vector of.

    Args:
        conn: An open connection.
        asked: One or more versions of a model.
        hits: Items by user.

    Raises:
        SourceError: There are none, so every list would miss.
    """
    items = list(set[ItemId]().union(*hits))
    known: set[ItemId] = set()
    for version in asked:
        text = (
            f"select item_id from recsys.item_vector_{version.suffix}"
            f" where item_id = any(%s::{version.config.item_id}[])"
        )
        known.update(item for (item,) in conn.execute(_sql.trusted(text), (items,)))
    if not known:
        numbers = " and ".join(str(version.number) for version in asked)
        who = (
            f"version {numbers} has" if len(asked) == 1 else f"versions {numbers} have"
        )
        raise SourceError(
            f"{who} none of the items of the holdout ({len(items):,})",
            hint=f"{_OTHER_IDS} item_id of items.sql.",
        )
    return known


def said(
    version: ModelVersion,
    wanted: Mapping[UserId, set[ItemId]],
    known: set[ItemId],
    met: int,
) -> str:
    """Return a sentence about what nobody knows, where that is much.

    Args:
        version: The version.
        wanted: The hits.
        known: The items among them that the version has.
        met: How many of the users have done anything before.

    Raises:
        SourceError: None of the users has.
    """
    if not met:
        raise SourceError(
            f"none of the users of the holdout ({len(wanted):,}) has done anything"
            " before",
            hint=f"{_OTHER_IDS} user_id of interactions.sql. For users without a past"
            " there is --new-users.",
        )
    hits = sum(map(len, wanted.values()))
    missed = hits - sum(len(items & known) for items in wanted.values())
    lost: list[str] = []
    if missed > _MANY * hits:
        lost.append(
            f"{missed:,} of {counted(hits, 'hit')} are on items that version"
            f" {version.number} does not have, which no list can find"
        )
    if len(wanted) - met > _MANY * len(wanted):
        lost.append(
            f"{len(wanted) - met:,} of {counted(len(wanted), 'user')} have done nothing"
            " before, so they get what is popular"
        )
    return f"{'; '.join(lost)}." if lost else ""
