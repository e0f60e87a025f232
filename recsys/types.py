"""Frozen dataclasses that cross the public interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload
from uuid import UUID

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

    Attributes:
        items: The recommendations, best first.
        request_id: Identifies this answer in ``record()`` and in the impressions.
        model: Name of the model.
        version: Number of the model version that made every part of the answer.
        experiment: Name of the experiment the user takes part in, or None.
        arm: Name of the user's arm in it, or None.
    """

    items: tuple[Recommendation, ...]
    request_id: UUID
    model: str
    version: int
    experiment: str | None = None
    arm: str | None = None

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
