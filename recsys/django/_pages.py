"""A page of model instances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast, overload
from uuid import UUID, uuid4

from django.db.models import Model

from recsys.errors import ConfigError
from recsys.types import ItemId, Page, Recommendation

M = TypeVar("M", bound=Model)
More = Callable[[int | None], "ModelPage[M]"]


class ModelPage(Sequence[M], Generic[M]):
    """One answer as model instances, best first; each has a ``recsys_score``.

    Attributes:
        items: The instances. An item that was deleted a moment ago is left out.
        page: The answer as ids and scores, of one model version.
    """

    def __init__(self, items: Sequence[M], page: Page, more: More[M] | None) -> None:
        self.items = tuple(items)
        self.page = page
        self._more = more

    @overload
    def __getitem__(self, index: int) -> M: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[M, ...]: ...
    def __getitem__(self, index: int | slice) -> M | tuple[M, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[M]:
        return iter(self.items)

    def __repr__(self) -> str:
        said = f", degraded={self.degraded!r}" if self.degraded else ""
        return f"<ModelPage of {self.model!r} {self.version}: {self.items!r}{said}>"

    @property
    def request_id(self) -> UUID:
        """Identifies this answer; pass it, or the page, to ``record``."""
        return self.page.request_id

    @property
    def model(self) -> str:
        """Name of the recsys model."""
        return self.page.model

    @property
    def version(self) -> int | None:
        """Number of the model version that answered."""
        return self.page.version

    @property
    def experiment(self) -> str | None:
        """The experiment the visitor takes part in, or None."""
        return self.page.experiment

    @property
    def arm(self) -> str | None:
        """The visitor's arm in it, or None."""
        return self.page.arm

    @property
    def degraded(self) -> str | None:
        """Why this is less than a full answer; None when it is one."""
        return self.page.degraded

    @property
    def ids(self) -> list[ItemId]:
        """The item ids, best first."""
        return self.page.ids

    @property
    def shown(self) -> tuple[ItemId, ...]:
        """The item ids of this page and of those before it."""
        return self.page.shown

    def next(self, k: int | None = None) -> ModelPage[M]:
        """Return the page after this one; nothing is shown twice.

        Args:
            k: Its length; default the length asked for before.

        Raises:
            ConfigError: This page was unpickled; ask with ``after=page``.
        """
        if self._more is None:
            raise ConfigError(
                "this page came out of a cache and knows its request no longer",
                hint="Ask again with recommend(..., after=page).",
            )
        return self._more(k)

    def __getstate__(self) -> dict[str, Any]:
        return {"items": self.items, "page": self.page, "_more": None}


def page_of(items: Iterable[M], *, model: str = "") -> ModelPage[M]:
    """Return a page of instances that no model chose, with scores of 0.

    It stands in for an answer: in tests, and in a view before a model serves.

    Args:
        items: Instances, in the order to show them.
        model: What ``page.model`` says.
    """
    held = tuple(items)
    for item in held:
        cast("Any", item).recsys_score = 0.0
    ranked = tuple(Recommendation(cast("ItemId", item.pk), 0.0) for item in held)
    page = Page(ranked, uuid4(), model, None)
    return ModelPage(held, page, lambda _: page_of((), model=model))
