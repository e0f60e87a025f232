"""The part of a step that one of several processes computes.

Every process draws the whole step, from the same random numbers, and computes its own
run of the queries. So the parts add up to the step that one process would have taken.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recsys.training.objectives.batch import TINY, LossBatch
from recsys.training.ragged import Selection
from recsys.training.step import Content, Step, Used


def part(step: Step, rank: int, size: int) -> Step:
    """Return the step of the queries of one process.

    Args:
        step: Of all queries, B.
        rank: Number of the process, from 0.
        size: Number of processes; where B is smaller, some get no query.
    """
    count = len(step.user)
    first, last = rank * count // size, (rank + 1) * count // size
    context = None if step.context is None else step.context[first:last]
    history, places, masks = _history(step, first, last)
    cut = Step(
        user=step.user[first:last],
        context=context,
        history=history,
        used=step.used,
        batch=_batch(step.batch, first, last),
        places=places,
        masks=masks,
    )
    # Without content an item that only others need costs nothing.
    return cut if step.used is None or step.used.content is None else _needed(cut)


def share(mine: Step, whole: Step) -> Tensor:
    """Return the share of the weight of all positives, which losses are means over."""
    return mine.batch.weight.sum() / whole.batch.weight.sum().clamp_min(TINY)


def _history(
    step: Step, first: int, last: int
) -> tuple[Selection, Tensor | None, Tensor | None]:
    """Return the histories of some queries, the places of those in them, and masks."""
    history = step.history
    if step.places is None:
        return _lists(history, first, last), None, None
    places = step.places[first:last]
    known = places[places >= 0]
    if not len(known):
        return _lists(history, 0, 0), places, None
    lists = history.owner[torch.stack([known.min(), known.max()])]
    begin, end = int(lists[0]), int(lists[1]) + 1
    masks = step.masks
    if masks is not None:
        entries = _bounds(history.start, len(history.values), begin, end)
        masks = masks[slice(*entries)]
    moved = places - history.start[begin]
    moved = torch.where(places >= 0, moved, -1)
    return _lists(history, begin, end), moved, masks


def _lists(all_: Selection, first: int, last: int) -> Selection:
    """Return a run of the lists."""
    begin, end = _bounds(all_.start, len(all_.values), first, last)
    weight, age, kind = (
        None if values is None else values[begin:end]
        for values in (all_.weight, all_.age, all_.kind)
    )
    return Selection(
        values=all_.values[begin:end],
        weight=weight,
        owner=all_.owner[begin:end] - first,
        start=all_.start[first:last] - begin,
        counts=all_.counts[first:last],
        age=age,
        kind=kind,
    )


def _bounds(start: Tensor, entries: int, first: int, last: int) -> tuple[int, int]:
    return tuple(  # pyright: ignore[reportReturnType] # two of them
        int(start[place]) if place < len(start) else entries for place in (first, last)
    )


def _batch(batch: LossBatch, first: int, last: int) -> LossBatch:
    """Return the comparisons of some queries; the sample is everybody's."""
    begin, end = _bounds(batch.start, len(batch.positives), first, last)
    seen = (batch.seen_query >= first) & (batch.seen_query < last)
    own, pairs, taught = batch.own, batch.pairs, batch.taught
    if taught is not None:
        query, knows = taught.query[first:last], taught.knows[first:last]
        taught = replace(taught, query=query, knows=knows)
    if own is not None:
        mine = (own.owner >= first) & (own.owner < last)
        own = replace(
            own,
            items=own.items[mine],
            owner=own.owner[mine] - first,
            log_weight=own.log_weight[mine],
        )
    if pairs is not None:
        pairs = replace(
            pairs, items=pairs.items[begin:end], weight=pairs.weight[begin:end]
        )
    return replace(
        batch,
        positives=batch.positives[begin:end],
        owner=batch.owner[begin:end] - first,
        start=batch.start[first:last] - begin,
        weight=batch.weight[begin:end],
        seen_query=batch.seen_query[seen] - first,
        seen_place=batch.seen_place[seen],
        own=own,
        pairs=pairs,
        taught=taught,
    )


def _needed(step: Step) -> Step:
    """Leave out the items of other processes: content is computed for each item."""
    used, batch, history = step.used, step.batch, step.history
    assert used is not None
    assert used.content is not None
    own, pairs = batch.own, batch.pairs
    asked = [batch.items(), history.values]
    if pairs is not None:
        asked.append(pairs.items.flatten())
    place = torch.full_like(used.rows, -1)
    place[torch.cat(asked)] = 0
    left = torch.nonzero(place >= 0).squeeze(1)
    place[left] = torch.arange(len(left), device=left.device)
    batch = replace(
        batch,
        negatives=place[batch.negatives],
        positives=place[batch.positives],
        bias=batch.bias[left],
        own=None if own is None else replace(own, items=place[own.items]),
        pairs=None if pairs is None else replace(pairs, items=place[pairs.items]),
    )
    return replace(
        step,
        used=Used(
            rows=used.rows[left],
            content=Content(used.content.rows[left], used.content.known[left]),
        ),
        history=replace(history, values=place[history.values]),
        batch=batch,
    )
