"""What training learns from, in memory: ids, interactions and encoded features."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.config import Interactions, ModelConfig
from recsys.encoder.values import Columns, Side
from recsys.errors import SourceError
from recsys.training.features import EncodedSide, encode_rows, fit_side
from recsys.training.value import value_weights
from recsys.types import ItemId, UserId

_Id = TypeVar("_Id", bound=Hashable)
_TOLERANCE_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Shown:
    """What was shown to whom and not chosen, one entry per user and item.

    Attributes:
        user: Dataset index, shape (m,), int32.
        item: Dataset index, shape (m,), int32.
        time: Of the last such answer in seconds since 1970, shape (m,), float64.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Interactions by index, with the ids and features the indices stand for.

    Interactions are kept as they came: repeats included, in no particular order.

    Attributes:
        item_ids: Every item of the source, in the application's type; index = item.
        user_ids: Every user with an interaction; index = user.
        user: Shape (n,), int32.
        item: Shape (n,), int32.
        time: Seconds since 1970 UTC, NaN when unknown or in the future, shape (n,).
        kind: Index into ``kinds``, shape (n,), int16.
        kinds: Names of the interaction kinds; "" when there is no kind.
        kind_weight: Weight of each kind; 0 = seen only, shape (K,), float32.
        kind_target: Whether evaluation counts the kind as a hit, shape (K,), bool.
        context: Row of ``contexts``, shape (n,), int32; None without context features.
        items: Encoded item features, None when none are declared.
        users: Encoded user features, None when none are declared.
        contexts: Encoded distinct contexts, None when none are declared.
        dropped: Interactions left out: null ids, or an item outside the source.
        until: The end of the data in seconds since 1970, None when unknown.
        value: Weight of each interaction by its value, shape (n,), float32; None when
            the value is not used.
        kind_dislike: Whether the kind says "not this", shape (K,), bool, or None.
        shown: Impressions without a choice; None when they are not used.
        neighbours: Similar items by an earlier version, nearest first, -1 where there
            is none, shape (N, k), int32; None when they are not used.
        future: Interactions whose time lies in the future, and is left aside.
        untimed: Interactions without a time, in a source that has times.
    """

    item_ids: Sequence[ItemId]
    user_ids: Sequence[UserId]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.float64]
    kind: NDArray[np.int16]
    kinds: tuple[str, ...]
    kind_weight: NDArray[np.float32]
    kind_target: NDArray[np.bool_]
    context: NDArray[np.int32] | None = None
    items: EncodedSide | None = None
    users: EncodedSide | None = None
    contexts: EncodedSide | None = None
    dropped: int = 0
    until: float | None = None
    value: NDArray[np.float32] | None = None
    kind_dislike: NDArray[np.bool_] | None = None
    shown: Shown | None = None
    neighbours: NDArray[np.int32] | None = None
    future: int = 0
    untimed: int = 0

    def __len__(self) -> int:
        return len(self.user)

    @property
    def weight(self) -> NDArray[np.float32]:
        """Weight of each interaction, shape (n,)."""
        return self.kind_weight[self.kind]

    @property
    def target(self) -> NDArray[np.bool_]:
        """Whether each interaction counts as a hit in evaluation, shape (n,)."""
        return self.kind_target[self.kind]

    def only(self, chosen: NDArray[np.bool_]) -> Dataset:
        """Return the same with some of the interactions, marked in shape (n,)."""
        context, value = self.context, self.value
        return replace(
            self,
            user=self.user[chosen],
            item=self.item[chosen],
            time=self.time[chosen],
            kind=self.kind[chosen],
            context=None if context is None else context[chosen],
            value=None if value is None else value[chosen],
            shown=None,
        )

    @classmethod
    def from_arrays(
        cls,
        config: ModelConfig,
        users: Sequence[UserId] | NDArray[np.generic],
        items: Sequence[ItemId] | NDArray[np.generic],
        *,
        times: Sequence[float] | NDArray[np.float64] | None = None,
        kinds: Sequence[str] | None = None,
        values: Sequence[float] | NDArray[np.float64] | None = None,
        now: float | None = None,
        item_ids: Sequence[ItemId] | None = None,
        item_columns: Columns | None = None,
        user_ids: Sequence[UserId] | None = None,
        user_columns: Columns | None = None,
        context_columns: Columns | None = None,
    ) -> Dataset:
        """Build a dataset without a database.

        Args:
            config: Declares features, kinds and weights; its SQL is not used.
            users: User id of each interaction.
            items: Item id of each interaction.
            times: Seconds since 1970 of each interaction.
            kinds: Kind of each interaction.
            values: Value of each interaction, for ``interactions.value``.
            now: Times after it are left aside; in seconds since 1970.
            item_ids: The catalogue; by default the items that occur.
            item_columns: Raw feature columns, aligned with ``item_ids``.
            user_ids: Users that have features; by default the users that occur.
            user_columns: Raw feature columns, aligned with ``user_ids``.
            context_columns: Raw feature columns, aligned with the interactions.

        Raises:
            SourceError: Item ids repeat, or lengths differ.
        """
        user_list, item_list = _plain(users), _plain(items)
        catalogue = _plain(item_ids) if item_ids is not None else _distinct(item_list)
        item_index = index_of(catalogue, "item_id")
        item = np.array([item_index.get(i, -1) for i in item_list], np.int32)
        known = item >= 0
        met, user = _numbered(user_list, np.int32)
        names, kind = [""], np.zeros(len(user), np.int16)
        if kinds is not None:
            names, kind = _numbered(kinds, np.int16)
        time = np.full(len(user), np.nan) if times is None else np.asarray(times, "f8")
        value = None
        if config.interactions.value and values is not None:
            value = np.asarray(values, "f8")
        if not len(user) == len(item) == len(time) == len(kind) or (
            value is not None and len(value) != len(user)
        ):
            raise SourceError("users, items, times, kinds and values differ in length")
        time, future = known_times(time, now)
        until = latest(time)
        encoded_items = _side(config, "item", item_columns or {}, catalogue, until)
        wearers = _plain(user_ids) if user_ids is not None else met
        encoded = _side(config, "user", user_columns or {}, wearers, until)
        contexts, context = _contexts(config, context_columns or {}, len(user), until)
        weight, target = kind_weights(config.interactions, names)
        return cls(
            item_ids=catalogue,
            user_ids=met,
            user=user[known],
            item=item[known],
            time=time[known],
            kind=kind[known],
            kinds=tuple(names),
            kind_weight=weight,
            kind_target=target,
            context=None if context is None else context[known],
            items=encoded_items,
            users=None if encoded is None else encoded.reordered(wearers, met),
            contexts=contexts,
            dropped=int((~known).sum()),
            until=until,
            value=_value(config.interactions, None if value is None else value[known]),
            kind_dislike=kind_dislikes(config.interactions, names),
            future=future,
            untimed=0 if times is None else int(np.isnan(time[known]).sum()) - future,
        )


def kind_weights(
    interactions: Interactions, kinds: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return weight and target mark of each kind."""
    default = 0.0 if interactions.weights else 1.0
    weight = [float(interactions.weights.get(kind, default)) for kind in kinds]
    positive = np.array(weight, np.float32)
    target = np.array(
        [not interactions.targets or kind in interactions.targets for kind in kinds]
    )
    return positive, target & (positive > 0)


def kind_dislikes(
    interactions: Interactions, kinds: Sequence[str]
) -> NDArray[np.bool_] | None:
    """Return the mark of the kinds that say "not this", None without any."""
    if not interactions.dislikes:
        return None
    return np.array([kind in interactions.dislikes for kind in kinds])


def known_times(
    time: NDArray[np.float64], now: float | None
) -> tuple[NDArray[np.float64], int]:
    """Return the times without those in the future, and how many those were.

    An event of tomorrow would be the last of its history, the most recent of its item
    and the end of the data. A day is allowed for clocks and time zones.
    """
    if now is None:
        return time, 0
    late = time > now + _TOLERANCE_S
    return np.where(late, np.nan, time), int(late.sum())


def _value(
    interactions: Interactions, value: NDArray[np.float64] | None
) -> NDArray[np.float32] | None:
    if value is None:
        return None
    return value_weights(value, interactions.value, interactions.value_cap)


def latest(time: NDArray[np.float64]) -> float | None:
    """Return the last known time, None when none is known."""
    known = time[np.isfinite(time)]
    return float(known.max()) if known.size else None


def index_of(ids: Sequence[_Id], column: str) -> dict[_Id, int]:
    """Map each id to its place.

    Raises:
        SourceError: An id repeats.
    """
    index = {value: place for place, value in enumerate(ids)}
    if len(index) < len(ids):
        seen: set[_Id] = set()
        twice = next(value for value in ids if value in seen or seen.add(value))
        raise SourceError(
            f"{column} {twice!r} occurs more than once in the source",
            hint=f"Make {column} unique, for example with group by or distinct on.",
        )
    return index


def _side(
    config: ModelConfig,
    side: Side,
    columns: Columns,
    ids: Sequence[Hashable],
    until: float | None,
) -> EncodedSide | None:
    source = config.items if side == "item" else config.users
    if not source.features:
        return None
    missing = [f.name for f in source.features if f.name not in columns]
    if missing:
        raise SourceError(f"{side} feature columns are missing: {', '.join(missing)}")
    fitted = fit_side(source.features, [columns], until)
    return encode_rows(side, fitted, [(columns, len(ids))])


def _contexts(
    config: ModelConfig, columns: Columns, count: int, until: float | None
) -> tuple[EncodedSide | None, NDArray[np.int32] | None]:
    """Return the encoded distinct contexts, and which of them each interaction has."""
    features = config.context.features
    if not features:
        return None, None
    rows, place = _numbered(
        list(zip(*(columns[feature.name] for feature in features), strict=True)),
        np.int32,
    )
    if len(place) != count:
        raise SourceError("context columns differ in length from the interactions")
    distinct = {f.name: [row[j] for row in rows] for j, f in enumerate(features)}
    fitted = fit_side(features, [columns], until)
    return encode_rows("context", fitted, [(distinct, len(rows))]), place


def _plain(ids: Sequence[_Id] | NDArray[np.generic]) -> list[_Id]:
    """Return Python ids: numpy scalars would not equal what Postgres returns."""
    values: list[_Id] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    return values


def _distinct(values: Sequence[_Id]) -> list[_Id]:
    return list(dict.fromkeys(values))


def _numbered(
    values: Sequence[_Id], kind: type[np.signedinteger[Any]]
) -> tuple[list[_Id], NDArray[Any]]:
    """Return the distinct values, and the place of each."""
    index: dict[_Id, int] = {}
    places = [index.setdefault(value, len(index)) for value in values]
    return list(index), np.array(places, kind)
