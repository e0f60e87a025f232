"""Several queries of one user, answered by one statement and merged.

Each interest is sure of its best places: of k places, floor(k / Q x share) go to the
best items of each of the Q interests; the rest to whoever scores best. An item that
several interests find counts for each of them, and with its best score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from recsys._request_sql import Seen
from recsys.retrieval import Found
from recsys.types import ItemId


def sure_places(k: int, interests: int, share: float) -> int:
    """Return how many places of a page each interest is sure of."""
    return int(k / interests * share)


def merge(found: Sequence[Found], k: int, sure: int) -> Found:
    """Return the page of k items that the lists of several interests make.

    The same as the statement does in SQL; here where a filter, or a comparison, needs
    the lists apart.

    Args:
        found: Item ids and scores of each interest, best first.
        k: Places of the page.
        sure: Places that each interest is sure of.
    """
    best: dict[ItemId, float] = {}
    certain: set[ItemId] = set()
    for ids, scores in found:
        certain.update(ids[:sure])
        for item, score in zip(ids, scores, strict=True):
            best[item] = max(score, best.get(item, score))
    ranked = _ranked(best)
    chosen = sorted(ranked, key=lambda item: item not in certain)[:k]
    kept = set(chosen)
    page = [item for item in ranked if item in kept]
    return page, [best[item] for item in page]


def _ranked(best: Mapping[ItemId, float]) -> list[ItemId]:
    """Return items best first; ties by id, which are all of one type."""
    by_id: list[Any] = sorted(cast("Iterable[Any]", best))
    return sorted(by_id, key=lambda item: -best[item])


def pooled(found: Sequence[Seen]) -> Seen:
    """Return the candidates of several interests as those of one query.

    Rules make their own order of them: which interest an item comes from is no longer
    told.
    """
    best: dict[ItemId, float] = {}
    packed: dict[ItemId, bytes] = {}
    for seen in found:
        width = len(seen.vectors or b"") // max(1, len(seen.item_ids))
        for place, (item, score) in enumerate(
            zip(seen.item_ids, seen.scores, strict=True)
        ):
            best[item] = max(score, best.get(item, score))
            if seen.vectors is not None:
                packed[item] = seen.vectors[place * width : (place + 1) * width]
    item_ids = _ranked(best)
    keys = _known(found, "key_ids", "keys")
    amounts = _known(found, "amount_ids", "amounts")
    times = _known(found, "time_ids", "times")
    return Seen(
        item_ids=item_ids,
        scores=[best[item] for item in item_ids],
        key_ids=list(keys) if keys is not None else None,
        keys=list(keys.values()) if keys is not None else None,
        amount_ids=list(amounts) if amounts is not None else None,
        amounts=list(amounts.values()) if amounts is not None else None,
        time_ids=list(times) if times is not None else None,
        times=list(times.values()) if times is not None else None,
        vectors=b"".join(packed[item] for item in item_ids) if packed else None,
        at=found[0].at,
        stage=found[0].stage,
        scanned=sum(seen.scanned for seen in found),
        needed=needed(found),
    )


def needed(found: Sequence[Seen]) -> int | None:
    """Return with how many candidates the deepest interest should have begun."""
    depths = [seen.needed for seen in found if seen.needed is not None]
    return max(depths) if depths and len(depths) == len(found) else None


def _known(found: Sequence[Seen], ids: str, values: str) -> dict[ItemId, Any] | None:
    """Return what any of the lists knows of items; None where nothing was asked."""
    if getattr(found[0], ids) is None and getattr(found[0], values) is None:
        return None
    out: dict[ItemId, Any] = {}
    for seen in found:
        pairs = zip(getattr(seen, ids) or (), getattr(seen, values) or (), strict=True)
        out.update(pairs)
    return out
