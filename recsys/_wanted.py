"""What one request asks of the search, checked and without a connection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict, cast

from recsys import filters
from recsys._arguments import check_k
from recsys.errors import ConfigError
from recsys.filters import Normalised, Query
from recsys.rules import MOST_CANDIDATES, MOST_ITEMS, Rules, check_number
from recsys.types import ItemId

NO_RULES = Rules()
Boost = Mapping[ItemId, float] | Query
"""Amounts added to scores: by item, or a query of two columns, item id and amount."""


class Search(TypedDict):
    """What a request says of its items, as it is passed on; see ``wanted``."""

    among: Query | None
    boost: Boost | None
    rules: Rules | None
    min_score: float | None
    recall_target: float | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one request asks of the search, checked and without a connection.

    Attributes:
        k: List length.
        exclude: Items never returned, pinned ones neither.
        among: The filter, or None.
        nothing: The filter is known to match nothing.
        amounts: Boosts by item.
        boost: Query of boosts, or None.
        rules: What the page must look like, or None.
        per: Query of the keys of the rules.
        times: Query of the times of the rules.
        min_score: Least score of the model.
        recall_target: Recall of this request; None: that of the version.
    """

    k: int
    exclude: tuple[ItemId, ...] = ()
    among: Normalised | None = None
    nothing: bool = False
    amounts: Mapping[ItemId, float] = field(default_factory=dict[ItemId, float])
    boost: Normalised | None = None
    rules: Rules | None = None
    per: Normalised | None = None
    times: Normalised | None = None
    min_score: float | None = None
    recall_target: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the k nearest are what is asked for, without more."""
        return (
            self.among is None
            and self.rules is None
            and not self.amounts
            and self.boost is None
            and self.min_score is None
        )

    @property
    def named(self) -> list[ItemId]:
        """Every item that the request names."""
        rules = self.rules or NO_RULES
        return [*self.exclude, *self.amounts, *rules.pin, *rules.bury]

    @property
    def considered(self) -> int:
        """How many eligible items the order of the page is made of.

        Each boosted item may leave the first k, or take a place among them.
        """
        rules = self.rules or NO_RULES
        least = self.k + len(self.amounts)
        reordered = (
            self.boost is not None or rules.fresh is not None or rules.mmr is not None
        )
        if not reordered:
            return least
        chosen = rules.candidates or min(MOST_CANDIDATES, max(100, 10 * self.k))
        return max(chosen, least)


def wanted(
    k: int,
    *,
    exclude: Iterable[ItemId] = (),
    among: Query | None = None,
    boost: Boost | None = None,
    rules: Rules | None = None,
    min_score: float | None = None,
    recall_target: float | None = None,
    source: object = None,
) -> Wanted:
    """Check what a request asks of the search.

    Args:
        k: List length.
        exclude: Items never returned.
        among: Only these items.
        boost: Amounts added to scores.
        rules: What the page must look like.
        min_score: Least score of the model.
        recall_target: Recall of this request.
        source: Where the statements will run.

    Raises:
        ConfigError: An argument is out of range or of the wrong type.
    """
    check_k(k)
    if rules is not None and not isinstance(rules, Rules):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"rules must be Rules, got {type(rules).__name__}")
    eligible = None if among is None else filters.normalise(among, 1, source)
    nothing = among is not None and eligible is None
    amounts, boost_query = _boosts(boost, source)
    per = times = None
    if rules is not None and rules.per is not None:
        per = filters.normalise(rules.per, 2, source, name="rules.per")
    if rules is not None and rules.fresh is not None:
        times = filters.normalise(
            rules.fresh.times, 2, source, name="rules.fresh.times"
        )
    if min_score is not None:
        min_score = check_number("min_score", min_score)
    if recall_target is not None:
        recall_target = check_number("recall_target", recall_target)
        if not 0 < recall_target <= 1:
            raise ConfigError(
                f"recall_target must be above 0 and at most 1, got {recall_target!r}",
                hint="1 is the exact scan.",
            )
    return Wanted(
        k=k,
        exclude=tuple(exclude),
        among=eligible,
        nothing=nothing,
        amounts=amounts,
        boost=boost_query,
        rules=rules,
        per=per,
        times=times,
        min_score=min_score,
        recall_target=recall_target,
    )


def _boosts(
    boost: Boost | None, source: object
) -> tuple[Mapping[ItemId, float], Normalised | None]:
    if boost is None:
        return {}, None
    if not isinstance(boost, Mapping):
        return {}, filters.normalise(boost, 2, source, name="boost")
    given = cast("Mapping[ItemId, float]", boost)
    if len(given) > MOST_ITEMS:
        raise ConfigError(
            f"boost names {len(given)} items, the most is {MOST_ITEMS}",
            hint="Pass a query of two columns, item id and amount.",
        )
    return {i: check_number("boost", amount) for i, amount in given.items()}, None
