"""Frozen dataclasses that cross the public interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import overload
from uuid import UUID

from recsys.errors import ConfigError

ItemId = int | str | UUID
UserId = int | str | UUID


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: The application's identifier, in the application's type.
        score: Inner product of query and item vector; higher is better. Comparable
            within one page only.
    """

    item_id: ItemId
    score: float


@dataclass(frozen=True, slots=True)
class Page(Sequence[Recommendation]):
    """One answer: recommendations, best first, of exactly one model version.

    It can be pickled, and so cached; then ``recommend(..., after=page)`` asks for the
    next page, not ``next()``.

    Attributes:
        items: The recommendations, best first.
        request_id: Identifies this answer in ``record()`` and in the impressions.
        model: Name of the model.
        version: Number of the model version that made every part of the answer; None
            for an empty page that none made.
        experiment: Name of the experiment the user takes part in, or None.
        arm: Name of the user's arm in it, or None.
        degraded: Why this is an earlier answer, a popular one or none, such as
            "timeout"; None for a full answer.
        earlier: Ids of the items on the pages before this one.
    """

    items: tuple[Recommendation, ...]
    request_id: UUID
    model: str
    version: int | None
    experiment: str | None = None
    arm: str | None = None
    degraded: str | None = None
    earlier: tuple[ItemId, ...] = ()
    _more: Callable[[Page, int | None], Page] | None = field(
        default=None, repr=False, compare=False
    )

    def next(self, k: int | None = None) -> Page:
        """Ask for the next page: the same request without the items shown so far.

        Args:
            k: List length; default that of this request.

        Raises:
            ConfigError: This page was unpickled.
        """
        if self._more is None:
            raise ConfigError(
                "this page came out of a cache and knows its request no longer",
                hint="Ask again with recommend(..., after=page).",
            )
        return self._more(self, k)

    @property
    def shown(self) -> tuple[ItemId, ...]:
        """Ids of the items on this page and the pages before it."""
        return (*self.earlier, *self.ids)

    def __getstate__(self) -> list[object]:
        return [getattr(self, one.name) for one in fields(self)[:-1]]

    def __setstate__(self, state: list[object]) -> None:
        for one, value in zip(fields(self), [*state, None], strict=True):
            object.__setattr__(self, one.name, value)

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Recommendation, ...]: ...
    def __getitem__(
        self, index: int | slice
    ) -> Recommendation | tuple[Recommendation, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)

    @property
    def ids(self) -> list[ItemId]:
        """The item ids, best first."""
        return [item.item_id for item in self.items]
