"""What is answered when the database does not: the last good page, else popular items.

Both are kept per process, of requests that were answered in full. An item is handed out
only if the filter of the request was applied to it: a page is remembered under the
database and everything that decided it, popular items under the database and their
filter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys._key import key_of, of_session
from recsys._wanted import Wanted
from recsys.types import ItemId, Page, Recommendation, UserId

POPULAR_EVERY_S = 600.0
"""Popular items are read anew after so long, also where that failed."""
POPULAR_MOST_S = 0.5
"""What reading them may cost the one request that does; less where it has a budget."""
PAGE_FOR_S = 3600.0
"""A remembered page is not handed out after so long."""
POPULAR_K = 200
"""How many are kept: enough for a page after what was excluded."""
_PAGES = 1000
_ITEMS = 50_000
_FILTERS = 64
_TAKERS = 1000
_TAKEN = 100
_DATABASES = 16
_T = TypeVar("_T")


class _Lru(Generic[_T]):
    """A bounded map, oldest use first out; single steps only, and no lock."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._kept: OrderedDict[Hashable, _T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> _T | None:
        found = self._kept.get(key)
        if found is not None:
            with suppress(KeyError):  # another thread dropped it meanwhile
                self._kept.move_to_end(key)
        return found

    def put(self, key: Hashable, value: _T) -> None:
        self._kept.pop(key, None)
        self._kept[key] = value
        if len(self._kept) > self._entries:
            self.drop()

    def drop(self) -> None:
        with suppress(KeyError):
            self._kept.popitem(last=False)

    def values(self) -> list[_T]:
        return list(self._kept.values())


@dataclass(frozen=True, slots=True)
class Remembered:
    """Items of an answer given in full.

    Attributes:
        version: The version that answered.
        items: Best first.
        at: When, by ``time.monotonic``.
    """

    version: int
    items: tuple[Recommendation, ...]
    at: float


@dataclass(slots=True)  # frozen, it would take four times as long to make
class Plea:
    """What one request asks for, as its fallback needs it.

    Attributes:
        wanted: What it asks of the search.
        earlier: Ids of the items on the pages before it.
        more: Asks for the page after one.
        place: The database; None: nothing is remembered.
        key: What its page is remembered by; None: it is not.
        among: Key of its filter; None: popular items are not kept for it.
        user_id: Whose known items are left out; None for nobody.
        known: Items of the session that are left out.
    """

    wanted: Wanted
    earlier: tuple[ItemId, ...]
    more: Callable[[Page, int | None], Page]
    place: str | None = None
    key: Hashable | None = None
    among: Hashable | None = None
    user_id: UserId | None = None
    known: Sequence[ItemId] = ()


def plea(
    place: str | None,
    subject: tuple[object, ...],
    wanted: Wanted,
    earlier: tuple[ItemId, ...],
    more: Callable[[Page, int | None], Page],
    *,
    user_id: UserId | None = None,
    known: Sequence[ItemId] = (),
) -> Plea:
    """Return the plea of a request.

    Args:
        place: The database; None where there is no fallback: keys cost time.
        subject: Whom or what the page is for, and the channel.
        wanted: What it asks of the search. What it excludes is no part of the key: it
            is taken out of what is remembered.
        earlier: Ids of the items on the pages before it.
        more: Asks for the page after one.
        user_id: Whose known items are left out.
        known: Items of the session that are left out.
    """
    if place is None or wanted.nothing:
        return Plea(wanted, earlier, more)
    parts = (place, *subject, wanted.k, len(earlier), wanted.recall_target)
    among: Hashable | None = place
    if not wanted.plain:
        rules, fresh = wanted.rules, None
        if rules is not None:
            fresh = rules.fresh and (rules.fresh.half_life, rules.fresh.weight)
            rules = (
                *(rules.at_most, rules.mmr, rules.pin, rules.bury, fresh),
                rules.candidates,
            )
        parts = (
            *parts,
            *(wanted.among, wanted.amounts, wanted.boost),
            *(wanted.per, wanted.times, wanted.min_score, rules),
        )
        if wanted.among is not None:
            among = key_of(place, wanted.among)
    key = key_of(*parts)
    if not wanted.plain and _of_session(wanted):
        key = among = None
    return Plea(wanted, earlier, more, place, key, among, user_id, known)


def _of_session(wanted: Wanted) -> bool:
    """Say whether what is asked depends on settings of the application's session."""
    given = (wanted.among, wanted.boost, wanted.per, wanted.times)
    return any(one is not None and of_session(one[0]) for one in given)


class Memory:
    """The fallback of one recommender in one process; any thread may use it.

    Bounded: 1,000 pages of 50,000 items together, popular items of 64 filters.
    """

    def __init__(self) -> None:
        self._pages: _Lru[Remembered] = _Lru(_PAGES)
        self._items = 0
        self._popular: _Lru[Remembered] = _Lru(_FILTERS)
        self._tried: _Lru[float] = _Lru(4 * _FILTERS)
        self._next = 0.0
        self._taken: _Lru[tuple[ItemId, ...]] = _Lru(_TAKERS)
        self._serving: _Lru[tuple[int, frozenset[int]]] = _Lru(_DATABASES)

    def remember(self, plea: Plea, page: Page, generation: int) -> None:
        """Keep a full answer.

        Args:
            plea: What it answers.
            page: The answer.
            generation: Of the plan by which it was made. What versions gave that have
                not answered since the last switch is no longer handed out.
        """
        version, key = page.version, plea.key
        if version is None or plea.place is None:
            return
        known = self._serving.get(plea.place)
        if known is None or known[0] != generation:
            self._serving.put(plea.place, (generation, frozenset((version,))))
        elif version not in known[1]:
            self._serving.put(plea.place, (generation, known[1] | {version}))
        if key is None or not page.items:
            return
        self._pages.put(key, Remembered(version, page.items, monotonic()))
        self._items += len(page.items)
        if self._items > _ITEMS:
            self._shrink()

    def _shrink(self) -> None:
        """Drop the oldest pages; what is kept is counted anew."""
        with suppress(RuntimeError):  # another thread changed it: the next one counts
            self._items = sum(len(one.items) for one in self._pages.values())
            # Some room, or every answer would count.
            while self._items > 0.9 * _ITEMS and len(self._pages) > 1:
                for _ in range(1 + len(self._pages) // 20):
                    self._pages.drop()
                self._items = sum(len(one.items) for one in self._pages.values())

    def took(self, user_id: UserId, item_id: ItemId) -> None:
        """Note that a user interacted with an item: it is known from now on."""
        before = self._taken.get(user_id) or ()
        self._taken.put(user_id, (*before[1 - _TAKEN :], item_id))

    def popular_due(self, plea: Plea) -> bool:
        """Say whether this request should read popular items for its filter.

        At most one request per second does, and only for a filter that came before:
        one that never comes again is not worth a statement.
        """
        among = plea.among
        if among is None:
            return False
        now = monotonic()
        known = self._popular.get(among)
        if known is not None and now - known.at < POPULAR_EVERY_S:
            return False
        tried = self._tried.get(among)
        if tried is None and plea.wanted.among is not None:
            self._tried.put(among, -inf)
            return False
        if now < self._next or (tried is not None and now - tried < POPULAR_EVERY_S):
            return False
        self._next = now + 1.0
        self._tried.put(among, now)
        return True

    def keep_popular(
        self, among: Hashable, version: int, items: Sequence[Recommendation]
    ) -> None:
        """Keep the popular items of a filter."""
        self._popular.put(among, Remembered(version, tuple(items), monotonic()))

    def answer(self, plea: Plea) -> tuple[int | None, list[Recommendation]]:
        """Return what there is: remembered items first, then popular ones.

        Returns:
            The one version that once gave them (None for no items), and at most k
            items, best first. A popular item scores no more than the last remembered
            one.
        """
        k = plea.wanted.k
        unwanted = {*plea.wanted.exclude, *plea.known}
        if plea.user_id is not None:
            unwanted.update(self._taken.get(plea.user_id) or ())
        last = self._valid(plea, self._pages, plea.key)
        if last is not None and monotonic() - last.at > PAGE_FOR_S:
            last = None
        found = [] if last is None else _without(last.items, unwanted)[:k]
        popular = None
        if not found or (last and _may_be_filled(plea.wanted, last, found)):
            popular = self._valid(plea, self._popular, plea.among)
        if popular is None:
            return (last.version if last and found else None), found
        if last is not None and last.version != popular.version:
            # A page is of one version.
            others = _without(popular.items, unwanted)[:k]
            return (popular.version, others) if others else (last.version, found)
        # Popularity and relevance are two scales; the page stays best first.
        floor = min((0.0, *(item.score for item in found)))
        unwanted.update(item.item_id for item in found)
        for item in _without(popular.items, unwanted)[: k - len(found)]:
            found.append(Recommendation(item.item_id, min(item.score, floor)))
        return (popular.version if found else None), found

    def _valid(
        self, plea: Plea, kept: _Lru[Remembered], key: Hashable | None
    ) -> Remembered | None:
        """Return what is remembered, unless its version was taken out of service."""
        one = None if key is None else kept.get(key)
        serving = None if plea.place is None else self._serving.get(plea.place)
        if one is None or serving is None or one.version not in serving[1]:
            return None
        return one


def _may_be_filled(
    wanted: Wanted, last: Remembered, found: Sequence[Recommendation]
) -> bool:
    """Say whether popular items may follow those of a page.

    A page that was short held all there was; popular items know no other rules.
    """
    rules = wanted.rules
    ruled = wanted.min_score is not None or (rules and rules.at_most is not None)
    return len(found) < wanted.k <= len(last.items) and not ruled


def _without(
    items: Sequence[Recommendation], unwanted: Collection[ItemId]
) -> list[Recommendation]:
    return [item for item in items if item.item_id not in unwanted]


def popular_query(dim: int) -> NDArray[np.float32]:
    """Return the query vector by which items rank by popularity alone."""
    query = np.zeros(dim + 1, np.float32)
    query[dim] = 1.0
    return query
