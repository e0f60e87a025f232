"""Draws the steps of a fit: queries, negatives, and what is hidden."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recsys.training.companions import Companions
from recsys.training.device import Device
from recsys.training.negatives import Neighbours, SharedSample
from recsys.training.objectives.batch import LossBatch, Own, Pairs, Taught, log_share
from recsys.training.query import DROP
from recsys.training.ragged import Selection
from recsys.training.rows import QueryRows
from recsys.training.settings import Settings
from recsys.training.step import Content, Queries, RowSource, Step, Used
from recsys.training.teacher import Teacher

# Share of queries whose whole history is hidden, so that the default query, user
# features and contexts learn to stand alone.
HIDDEN = 0.02
# Share of sequences trained as a session is served: without times, kinds or weights.
SESSIONS = 0.15
# A user of 100,000 items takes part with this many of them per step, drawn anew.
MOST_TARGETS = 2_000
_LEAST_SAMPLE = 1024
_PAIRED = "bpr"


class UserRows:
    """One query per row: a user's history, and what the user has chosen.

    Without contexts a row is a user; with them it is a distinct (user, context).
    """

    def __init__(self, rows: QueryRows) -> None:
        self._rows = rows
        self._users = torch.from_numpy(rows.users).to(rows.user.device)

    def __len__(self) -> int:
        return len(self._rows.user)

    def take(self, chosen: Tensor) -> Queries:
        """Return the queries of some rows."""
        rows = self._rows
        user = rows.user[chosen]
        return Queries(
            user=self._users[user],
            context=None if rows.context is None else rows.context[chosen],
            history=rows.history.take(user),
            targets=rows.targets.take(chosen),
            seen=rows.seen.take(user),
            shown=None if rows.shown is None else rows.shown.take(user),
            disliked=None if rows.disliked is None else rows.disliked.take(user),
        )


class Sampler:
    """Draws what one step sees.

    Args:
        source: Makes the queries.
        rows: The trained items: which they are, their popularity and neighbours.
        settings: Hyper-parameters.
        device: Where everything is.
        generator: Of that device.
        content: Whether items have features.
        narrow: Whether steps leave out the items that they do not use, as with content.
        near: Where further positives come from; None: there are none.
        teacher: Whom to learn from besides; None: there is nobody.
        masks: Places that dropout is at inside the encoder of histories, S, and the
            numbers at each, d.
    """

    def __init__(
        self,
        source: RowSource,
        rows: QueryRows,
        settings: Settings,
        device: Device,
        generator: torch.Generator,
        *,
        content: bool,
        narrow: bool = False,
        near: Companions | None = None,
        teacher: Teacher | None = None,
        masks: tuple[int, int] = (0, 0),
    ) -> None:
        self._masks = masks
        self._teacher = teacher
        self._near = near if settings.companions > 0 else None
        self._source = source
        self._settings = settings
        self._generator = generator
        self._where = device.where
        self._products = device.products(settings.tau)
        self._items = torch.from_numpy(rows.items).to(device.where)
        self._content = content
        self._narrow = narrow or content
        size = shared_negatives(settings, len(rows.items), content=content)
        self._shared = SharedSample(rows.pop, settings, size, generator)
        self._neighbours: Neighbours | None = None
        if rows.neighbours is not None and settings.sources.neighbours:
            most = settings.sources.neighbours
            self._neighbours = Neighbours(rows.neighbours, most, generator)
        self._bias = settings.beta * log_popularity(rows.pop)
        # Place of each item in the sample, or among those of the step; else -1.
        self._place = torch.full((len(rows.items),), -1, device=device.where)

    def step(self, chosen: Tensor) -> Step:
        """Draw the step of some rows of the source."""
        queries = self._source.take(chosen)
        targets = queries.targets.sample(MOST_TARGETS, self._generator)
        queries = replace(queries, targets=targets)
        batch = self._compare(queries)
        history, places = self._hide(self._as_sessions(queries), queries.places)
        masks = self._drop(len(history.values)) if places is not None else None
        used = None
        if self._narrow:
            used = self._mark(batch.items(), _paired(batch), history.values)
            history = replace(history, values=self._place[history.values])
            batch = self._local(batch, used.rows)
            self._place[used.rows] = -1
        return Step(queries.user, queries.context, history, used, batch, places, masks)

    def _compare(self, queries: Queries) -> LossBatch:
        """Return the comparisons; what its query has met or should find is masked."""
        targets, seen = queries.targets, queries.seen
        negatives, correction = self._shared.draw(targets.values)
        self._place[negatives] = torch.arange(len(negatives), device=self._where)
        share = log_share(len(self._items), len(negatives))
        positives = self._with_companions(targets, queries.disliked)
        found = positives.where(positives.weights(self._bias) > 0)
        # A source may leave the targets out of what was seen before; a companion is
        # new to its user, and nothing is both positive and negative.
        place = self._place[torch.cat([seen.values, targets.values, found.values])]
        owner = torch.cat([seen.owner, targets.owner, found.owner])
        self._place[negatives] = -1
        met = place >= 0
        batch = LossBatch(
            negatives=negatives,
            positives=positives.values,
            owner=positives.owner,
            start=positives.start,
            weight=positives.weights(self._bias),
            seen_query=owner[met],
            seen_place=place[met],
            bias=self._bias if queries.bias is None else queries.bias,
            log_share=share,
            correction=correction,
            own=self._own(queries, share),
            taught=self._taught(queries, negatives),
            products=self._products,
        )
        if self._settings.objective == _PAIRED:
            return replace(batch, pairs=self._pairs(batch))
        return batch

    def _taught(self, queries: Queries, negatives: Tensor) -> Taught | None:
        """Return what the teacher makes of whole histories, hiding nothing."""
        if self._teacher is None:
            return None
        weight = self._settings.distil
        return self._teacher.teach(queries, negatives, weight, self._generator)

    def _with_companions(
        self, targets: Selection, disliked: Selection | None
    ) -> Selection:
        """Return the targets, each followed by a companion; a disliked one is void."""
        if self._near is None:
            return targets
        count = len(targets.values)
        drawn = self._near.draw(targets.values, self._uniform(count))
        weight = targets.weights(self._bias)
        lighter = weight * self._settings.companions
        if disliked is not None:
            width = len(self._items)
            refused = disliked.owner * width + disliked.values
            lighter *= ~torch.isin(targets.owner * width + drawn, refused)
        return Selection(
            values=torch.stack([targets.values, drawn], 1).flatten(),
            weight=torch.stack([weight, lighter], 1).flatten(),
            owner=targets.owner.repeat_interleave(2),
            start=2 * targets.start,
            counts=2 * targets.counts,
        )

    def _own(self, queries: Queries, share: float) -> Own | None:
        """Return the negatives of single queries that none of them has met."""
        mix, targets, seen = self._settings.sources, queries.targets, queries.seen
        found: list[tuple[Tensor, Tensor]] = []
        if self._neighbours is not None:
            found.append(self._neighbours.draw(targets))
        if queries.shown is not None:
            shown = queries.shown.sample(mix.shown, self._generator)
            found.append((shown.values, shown.owner))
        found = [self._unmet(*pairs, (targets, seen)) for pairs in found]
        if queries.disliked is not None:
            disliked = queries.disliked.sample(mix.disliked, self._generator)
            # What was refused was met; what is liked all the same is not among them.
            pairs = (disliked.values, disliked.owner)
            found.append(self._unmet(*pairs, (targets,)))
        if not found:
            return None
        items = torch.cat([pairs[0] for pairs in found])
        owner, order = torch.sort(torch.cat([pairs[1] for pairs in found]), stable=True)
        weight = torch.full((len(items),), mix.own_weight, device=self._where)
        return Own(items[order], owner, weight.log() + share)

    def _unmet(
        self, items: Tensor, owner: Tensor, met: tuple[Selection, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the pairs of item and query that are in none of some lists."""
        width = len(self._items)
        known = torch.cat([lists.owner * width + lists.values for lists in met])
        keep = ~torch.isin(owner * width + items, known)
        return items[keep], owner[keep]

    def _pairs(self, batch: LossBatch) -> Pairs:
        """Draw negatives of each positive, from the sample and those of its query."""
        shape = (len(batch.positives), self._settings.pairs)
        sample = len(batch.negatives)
        place = torch.randint(
            sample, shape, generator=self._generator, device=self._where
        )
        queries = len(batch.start)
        met = torch.zeros(queries, sample, dtype=torch.bool, device=self._where)
        met[batch.seen_query, batch.seen_place] = True
        weight = (~met[batch.owner.unsqueeze(1), place]).float()
        if batch.correction is not None:
            weight = weight * batch.correction.exp()[place]
        items = batch.negatives[place]
        if batch.own is not None and len(batch.own.items):
            self._exchange(batch, batch.own, items, weight)
        return Pairs(items, weight)

    def _exchange(
        self, batch: LossBatch, own: Own, items: Tensor, weight: Tensor
    ) -> None:
        """Put one negative of its query into the first place of each positive's."""
        counts = torch.bincount(own.owner, minlength=len(batch.start))
        first = counts.cumsum(0) - counts
        draw = self._uniform(len(batch.owner)) * counts[batch.owner]
        has = counts[batch.owner] > 0
        place = (first[batch.owner] + draw.long())[has]
        items[has, 0] = own.items[place]
        weight[has, 0] = (own.log_weight[place] - batch.log_share).exp()

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, device=self._where)

    def _as_sessions(self, queries: Queries) -> Selection:
        """Return the histories, some sequences of them as a session is served."""
        history = queries.history
        if queries.places is None:
            return history
        session = (self._uniform(len(history.start)) < SESSIONS)[history.owner]

        def without(values: Tensor | None, unknown: float) -> Tensor | None:
            return None if values is None else values.masked_fill(session, unknown)

        return replace(
            history,
            weight=without(history.weight, 1),
            age=without(history.age, -1),
            kind=without(history.kind, 0),
        )

    def _drop(self, entries: int) -> Tensor | None:
        """Return the masks of dropout inside an encoder, as in ``Step``."""
        places, dim = self._masks
        if not places:
            return None
        kept = torch.empty(entries, places, dim, device=self._where)
        return kept.bernoulli_(1 - DROP, generator=self._generator).div_(1 - DROP)

    def _hide(
        self, history: Selection, places: Tensor | None
    ) -> tuple[Selection, Tensor | None]:
        """Return what is left after some entries, and some whole histories, are out."""
        hidden = self._uniform(len(history.start)) < HIDDEN
        drawn = self._uniform(len(history.values))
        keep = (drawn >= self._settings.dropout) & ~hidden[history.owner]
        left = history.where(keep)
        if places is None:
            return left, None
        # The next older entry that is left, unless that is in another history.
        count = keep.long().cumsum(0)
        place = (count - keep.long())[places]
        owner = torch.nn.functional.pad(left.owner, (0, 1), value=-1)
        return left, torch.where(owner[place] == history.owner[places], place, -1)

    def _mark(self, *items: Tensor) -> Used:
        """Number the items of a step, and choose those without their ID row."""
        # One entry of each item wins its place: no pass over all items is needed.
        every = torch.cat(items)
        entry = torch.arange(len(every), device=self._where)
        self._place[every] = entry
        rows = every[self._place[every] == entry].sort().values
        self._place[rows] = entry[: len(rows)]
        if not self._content:
            return Used(rows, None)
        drawn = self._uniform(len(rows), 1)
        known = (drawn >= self._settings.id_dropout).float()
        return Used(rows, Content(self._items[rows], known))

    def _local(self, batch: LossBatch, used: Tensor) -> LossBatch:
        """Return the comparisons by place among the items of the step."""
        place, own, pairs = self._place, batch.own, batch.pairs
        return replace(
            batch,
            negatives=place[batch.negatives],
            positives=place[batch.positives],
            bias=batch.bias[used],
            own=None if own is None else replace(own, items=place[own.items]),
            pairs=None if pairs is None else replace(pairs, items=place[pairs.items]),
        )


def shared_negatives(settings: Settings, items: int, *, content: bool) -> int:
    """Return how many negatives the queries of a step share."""
    size = min(settings.negatives, items)
    if content:
        # Content is computed for every sampled item, and costs more than its column of
        # the logits: a quarter of a small catalogue does as well.
        size = min(size, max(_LEAST_SAMPLE, items // 4))
    return size


def _paired(batch: LossBatch) -> Tensor:
    """Return the items of the pairs, none where there are none."""
    return batch.negatives[:0] if batch.pairs is None else batch.pairs.items.flatten()


def log_popularity(pop: Tensor) -> Tensor:
    """Return log(pop / mean pop), with pop at least 1."""
    return (pop.clamp(min=1) / pop.mean().clamp(min=1)).log()
