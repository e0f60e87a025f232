"""Users and items of a holdout that nobody knows: new ones, or ids of another table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from recsys import _sql
from recsys._db import Connection
from recsys._wording import counted
from recsys.errors import SourceError
from recsys.ids import check_id
from recsys.types import ItemId, UserId
from recsys.versions import ModelVersion

_MANY = 0.1
"""Share of unknown users, or of hits on unknown items, from which on it is said."""


def known_items(
    conn: Connection,
    asked: Sequence[ModelVersion],
    wanted: Mapping[UserId, Collection[ItemId]],
) -> set[ItemId]:
    """Return the items among the hits that a version has a vector of.

    Args:
        conn: An open connection.
        asked: One or more versions of a model.
        wanted: The hits.

    Raises:
        ConfigError: An id is of another type than the model's: SQL must not see it.
        SourceError: There are none, so every list would miss.
    """
    config = asked[0].config
    for user in wanted:
        check_id("user_id of the holdout", user, config.user_id)
    items = list(set[ItemId]().union(*wanted.values()))
    for item in items:
        check_id("item_id of the holdout", item, config.item_id)
    known: set[ItemId] = set()
    for version in asked:
        text = (
            f"select item_id from recsys.item_vector_{version.suffix}"
            f" where item_id = any(%s::{config.item_id}[])"
        )
        known.update(item for (item,) in conn.execute(_sql.trusted(text), (items,)))
    if not known:
        numbers = " and ".join(str(version.number) for version in asked)
        who = (
            f"version {numbers} has" if len(asked) == 1 else f"versions {numbers} have"
        )
        raise SourceError(
            f"{who} none of the items of the holdout ({len(items):,})",
            hint="Are these ids of another table, or another export? Compare them with"
            " the item_id of items.sql.",
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
    """
    hits = sum(map(len, wanted.values()))
    missed = hits - sum(len(items & known) for items in wanted.values())
    lost: list[str] = []
    if missed > _MANY * hits:
        lost.append(
            f"no list can find {missed:,} of {counted(hits, 'hit')}: version"
            f" {version.number} does not have the items"
        )
    if len(wanted) - met > _MANY * len(wanted):
        lost.append(
            f"{len(wanted) - met:,} of {counted(len(wanted), 'user')} did nothing"
            " before, so only features and popularity make their lists"
        )
    return f"{'; '.join(lost)}." if lost else ""
