"""Business rules of one request: variety, pinned and buried items, freshness.

What they do, in this order: candidates are chosen by the filter and the model's score;
boosts and freshness are added; each key keeps its best; MMR spreads the rest; buried
items stand behind all others, and pinned ones in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import numpy as np
from numpy.typing import NDArray

from recsys.errors import ConfigError
from recsys.filters import Query
from recsys.types import ItemId

MOST_CANDIDATES = 5000
MOST_ITEMS = 1000
"""Items that one list of a request may name: pinned, buried or boosted."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A bonus for new items that halves with age.

    An item gains ``weight * 0.5 ** (age / half_life)``; one without a time gains
    nothing, and one from the future as much as a new one.

    Attributes:
        times: Query of two columns: item id and timestamp.
        half_life: Age at which half of the bonus is left.
        weight: Bonus of an item made now, in the unit of the scores.

    Raises:
        ConfigError: The half-life is not positive, or the weight no finite number.

    Example:
        >>> Fresh("select id, created_at from product", timedelta(days=14), 0.2).weight
        0.2
    """

    times: Query
    half_life: timedelta
    weight: float

    def __post_init__(self) -> None:
        if not isinstance(self.half_life, timedelta) or self.half_life <= timedelta(0):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(
                f"fresh.half_life must be a positive timedelta, got {self.half_life!r}",
                hint="Such as timedelta(days=14).",
            )
        check_number("fresh.weight", self.weight)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a page must look like, beyond the scores.

    Attributes:
        at_most: Items of one key on a page, such as three of one seller; pinned items
            count too. Items without a key are not limited.
        per: Query of two columns: item id and key. Of several keys of an item the
            smallest counts.
        mmr: Maximal marginal relevance: 1 is the order by score alone, 0 the most
            varied page. Each place takes the item with the highest
            ``mmr * score - (1 - mmr) * similarity`` to what already stands above it.
        pin: Items in front, in this order, where the filter and ``exclude`` let them
            pass; that the user has seen them is no obstacle.
        bury: Items only behind all others.
        fresh: A bonus for new items.
        candidates: How many of the nearest eligible items are considered where an
            order other than the model's is asked for: by ``mmr``, ``fresh`` or a
            boost query. Default ten times k, at least 100; at most 5000.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> Rules(at_most=2, per="select id, brand from product", pin=[42]).at_most
        2

    Source:
        Carbonell and Goldstein 1998, "The use of MMR, diversity-based reranking for
        reordering documents and producing summaries".
    """

    at_most: int | None = None
    per: Query | None = None
    mmr: float | None = None
    pin: Sequence[ItemId] = ()
    bury: Sequence[ItemId] = ()
    fresh: Fresh | None = None
    candidates: int | None = None

    def __post_init__(self) -> None:
        check_whole("at_most", self.at_most, 1000)
        check_whole("candidates", self.candidates, MOST_CANDIDATES)
        if (self.at_most is None) != (self.per is None):
            raise ConfigError(
                "at_most and per belong together",
                hint='Such as at_most=2, per="select id, brand from product".',
            )
        if self.mmr is not None:
            check_number("mmr", self.mmr)
            if not 0 <= self.mmr <= 1:
                raise ConfigError(
                    f"mmr must be a number from 0 to 1, got {self.mmr!r}",
                    hint="1 is the order by score alone; 0.7 is a good start.",
                )
        if self.fresh is not None and not isinstance(self.fresh, Fresh):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"fresh must be a Fresh, got {self.fresh!r:.80}")
        pinned, buried = check_items("pin", self.pin), check_items("bury", self.bury)
        if both := pinned.intersection(buried):
            raise ConfigError(f"pinned and buried at once: {sorted(map(str, both))[0]}")


def check_items(name: str, items: object) -> set[ItemId]:
    """Return the items of a list; their type is checked against the model later.

    Raises:
        ConfigError: It is no sequence of ids, or too long.
    """
    if isinstance(items, str | bytes) or not isinstance(items, Sequence):
        raise ConfigError(f"{name} must be a list of item ids, got {items!r:.80}")
    given = cast("Sequence[ItemId]", items)
    if len(given) > MOST_ITEMS:
        raise ConfigError(
            f"{name} names {len(given)} items, the most is {MOST_ITEMS}",
            hint="Use a boost query for more.",
        )
    try:
        return set(given)
    except TypeError:
        raise ConfigError(f"{name} must be a list of item ids") from None


def check_whole(name: str, value: object, most: int) -> None:
    """Refuse what is neither None nor a whole number from 1 to ``most``.

    Raises:
        ConfigError: It is something else.
    """
    if value is None or (type(value) is int and 1 <= value <= most):
        return
    raise ConfigError(f"{name} must be a whole number from 1 to {most}, got {value!r}")


def check_number(name: str, value: object) -> float:
    """Return a finite number as a float.

    Raises:
        ConfigError: It is no number, infinite, or not a number at all.
    """
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not -1e30 <= value <= 1e30  # also no NaN
    ):
        raise ConfigError(f"{name} must be a finite number, got {value!r:.80}")
    return float(value)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What ``order`` puts in order; every array has one entry per item.

    Attributes:
        ids: The items.
        scores: Their final scores, shape (n,).
        keys: Their keys by item; an item without one is not limited.
        directions: Their unit vectors, shape (n, D); None where MMR is not asked for.
    """

    ids: Sequence[ItemId]
    scores: NDArray[np.float64]
    keys: Mapping[ItemId, str]
    directions: NDArray[np.float32] | None = None


def order(found: Candidates, rules: Rules, k: int) -> list[int]:
    """Return the places of the items of a page in ``found``, in their order.

    Args:
        found: The candidates.
        rules: What the page must look like.
        k: List length.
    """
    ids, scores = found.ids, found.scores
    places = {item: place for place, item in enumerate(ids)}
    pinned = [places[item] for item in dict.fromkeys(rules.pin) if item in places][:k]
    taken, buried = set(pinned), set(rules.bury)
    ranked = sorted(
        (place for place in range(len(ids)) if place not in taken),
        key=lambda place: (ids[place] in buried, -scores[place], ids[place]),
    )
    if rules.at_most is not None:
        ranked = _uncrowded(found, pinned, ranked, rules.at_most)
    front = [place for place in ranked if ids[place] not in buried]
    behind = ranked[len(front) :]
    if rules.mmr is not None and found.directions is not None:
        front = _varied(found, pinned, front, rules.mmr, k - len(pinned))
    return [*pinned, *front, *behind][:k]


def _uncrowded(
    found: Candidates, pinned: Sequence[int], ranked: Sequence[int], at_most: int
) -> list[int]:
    """Return the best of each key; what is pinned stands already."""
    count: dict[str, int] = {}
    kept: list[int] = []
    for place in (*pinned, *ranked):
        key = found.keys.get(found.ids[place])
        if key is not None:
            count[key] = count.get(key, 0) + 1
        if key is None or count[key] <= at_most:
            kept.append(place)
    standing = set(pinned)
    return [place for place in kept if place not in standing]


def _varied(
    found: Candidates,
    pinned: Sequence[int],
    ranked: Sequence[int],
    weight: float,
    length: int,
) -> list[int]:
    """Return the next items by maximal marginal relevance, the first on a tie."""
    assert found.directions is not None
    vectors = found.directions[list(ranked)]  # (n, D)
    relevance = weight * found.scores[list(ranked)]
    nearest = np.full(len(ranked), -np.inf)
    for place in pinned:
        nearest = np.maximum(nearest, vectors @ found.directions[place])
    chosen: list[int] = []
    free = np.ones(len(ranked), dtype=bool)
    for _ in range(min(length, len(ranked))):
        like = np.where(np.isfinite(nearest), nearest, 0.0)
        worth = np.where(free, relevance - (1 - weight) * like, -np.inf)
        best = int(np.argmax(worth))
        free[best] = False
        chosen.append(ranked[best])
        nearest = np.maximum(nearest, vectors @ vectors[best])
    return chosen
