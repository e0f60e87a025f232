"""A recommender of instances: the core, with a QuerySet before and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Model
from django.db.models.manager import BaseManager
from django.db.models.query import QuerySet
from django.http import HttpRequest

from recsys._wording import raising
from recsys.django import conf
from recsys.django._cores import core_of
from recsys.django._hydrate import checked, filled, loads, suited
from recsys.django._pages import ModelPage
from recsys.django._queries import queryset_of, sql_of, within
from recsys.django._source import DjangoSource
from recsys.django._terms import TERMS
from recsys.django._visitor import visitor_of
from recsys.django._who import Who, request_id_of, user_id_of
from recsys.errors import ConfigError
from recsys.filters import Query
from recsys.recommender import Recommender
from recsys.rules import Rules
from recsys.types import ItemId, Page, UserId

M = TypeVar("M", bound=Model)


class ModelRecommender(Generic[M]):
    """Recommendations as instances of a Django model; see ``recommender()``.

    It runs on Django's own connection, inside the caller's ``atomic``. Instances are
    loaded by one more query, which is the application's own QuerySet:
    ``select_related``, ``prefetch_related``, ``only`` and annotations are kept.
    """

    def __init__(
        self,
        model: str,
        items: type[M] | BaseManager[M] | QuerySet[M],
        *,
        item_field: str = "pk",
    ) -> None:
        self.name = model
        self._items = items
        self._item_field = item_field
        self.items_of()

    def __repr__(self) -> str:
        return f"recommender({self.name!r}, {self.items_of().model.__name__})"

    @property
    def core(self) -> Recommender:
        """The recommender of ids behind this one, on Django's connection."""
        return core_of(self.name)

    def items_of(self) -> QuerySet[M]:
        """Return the QuerySet that loads the items.

        Raises:
            ConfigError: There is none.
        """
        given = self._items
        if isinstance(given, type) and issubclass(given, Model):  # pyright: ignore[reportUnnecessaryIsInstance]
            return cast("QuerySet[M]", given._default_manager.all())
        found = queryset_of(given)
        if found is None or not loads(found):
            raise ConfigError(
                f"the items of {self.name!r} must be a Django model or a QuerySet of "
                f"instances that can be filtered, got {type(given).__name__}",
                hint=f"Such as recommender({self.name!r}, Product).",
            )
        return cast("QuerySet[M]", found)

    @property
    def field(self) -> models.Field[Any, Any]:
        """The field of the items that holds the item id."""
        meta = self.items_of().model._meta
        if self._item_field == "pk":
            return cast("models.Field[Any, Any]", meta.pk)
        return meta.get_field(self._item_field)

    @property
    def value_field(self) -> models.Field[Any, Any]:
        """The field that holds its values, behind a one-to-one primary key."""
        found: Any = self.field
        while found.remote_field is not None:
            found = found.target_field
        return found

    def recommend(
        self,
        who: Who = None,
        *,
        k: int = 20,
        among: Query | None = None,
        exclude: Iterable[ItemId | M] = (),
        exclude_seen: bool = True,
        history: Sequence[ItemId | M] | None = None,
        context: Mapping[str, object] | None = None,
        boost: Mapping[ItemId | M, float] | Query | None = None,
        min_score: float | None = None,
        recall_target: float | None = None,
        rules: Rules | None = None,
        after: ModelPage[M] | Page | Sequence[ItemId] = (),
        unit: str | None = None,
        timeout_ms: float | None = None,
        queryset: QuerySet[M] | None = None,
    ) -> ModelPage[M]:
        """Return the k best items for a user, a visitor or nobody.

        Args:
            who: The request: its user, or the history in its session. Or a user, or a
                user id; None for nobody in particular.
            k: List length, 1 to 1000.
            among: Only these items: a QuerySet of them, a QuerySet of one column that
                refers to them, or SQL. Instances are loaded by it where it can be.
            exclude: Instances or ids never to return.
            exclude_seen: Leave out what the user has interacted with.
            history: Instances or ids, newest first, instead of the stored history.
            context: Request-time features by name.
            boost: Amounts by item id, or a query of item id and amount.
            min_score: Only items of at least this score.
            recall_target: Exactness of the search, up to 1 for an exact one.
            rules: Variety, pinned and buried items, freshness.
            after: The page before this one, or the ids shown so far.
            unit: What rollouts and experiments assign, when it is not the user.
            timeout_ms: The budget of this answer.
            queryset: How to load the instances, instead of the usual way.

        Returns:
            Instances, best first.

        Raises:
            ConfigError: An argument is out of range or of the wrong type.
            UnknownModel: No model of that name is registered.
            VersionStateError: No version of the model serves.
        """
        user, session, assigned = self._who(who)
        chosen = session if history is None else [self.id_of(item) for item in history]
        loading = self._loading(queryset, among)
        arguments = self._arguments(
            k=k,
            among=among,
            exclude=exclude,
            after=after,
            context=context,
            boost=boost,
            min_score=min_score,
            recall_target=recall_target,
            rules=rules,
            timeout_ms=timeout_ms,
        )
        with raising(TERMS):
            page = self.core.recommend(
                user,
                history=chosen,
                unit=assigned if unit is None else unit,
                exclude_seen=exclude_seen,
                **arguments,
            )
        return self._filled(page, loading, "two-tower")

    def similar(
        self,
        item: M | ItemId,
        *,
        who: Who = None,
        k: int = 20,
        among: Query | None = None,
        exclude: Iterable[ItemId | M] = (),
        boost: Mapping[ItemId | M, float] | Query | None = None,
        min_score: float | None = None,
        recall_target: float | None = None,
        rules: Rules | None = None,
        after: ModelPage[M] | Page | Sequence[ItemId] = (),
        unit: str | None = None,
        timeout_ms: float | None = None,
        queryset: QuerySet[M] | None = None,
    ) -> ModelPage[M]:
        """Return the k items most like one item; never the item itself.

        Args:
            item: An instance, or its id.
            who: Whose share of a rollout decides the version: a request, a user, a
                user id; None for the base.
            k: List length, 1 to 1000.
            among: As in ``recommend``, like the arguments after it.
            exclude: Instances or ids never to return.
            boost: Amounts by item id, or a query of item id and amount.
            min_score: Only items of at least this score.
            recall_target: Exactness of the search.
            rules: Variety, pinned and buried items, freshness.
            after: The page before this one, or the ids shown so far.
            unit: What rollouts assign, when it is not the user.
            timeout_ms: The budget of this answer.
            queryset: How to load the instances, instead of the usual way.

        Raises:
            UnknownItem: The serving version has no vector for the item.
            ConfigError: An argument is out of range or of the wrong type.
            UnknownModel: No model of that name is registered.
            VersionStateError: No version of the model serves.
        """
        if unit is None:
            unit = self._who(who)[2]
        loading = self._loading(queryset, among)
        arguments = self._arguments(
            k=k,
            among=among,
            exclude=exclude,
            after=after,
            boost=boost,
            min_score=min_score,
            recall_target=recall_target,
            rules=rules,
            timeout_ms=timeout_ms,
        )
        with raising(TERMS):
            page = self.core.similar_items(self.id_of(item), unit=unit, **arguments)
        return self._filled(page, loading, "similar")

    def record(
        self,
        who: Who,
        item: M | ItemId,
        kind: str,
        *,
        request_id: ModelPage[M] | Page | UUID | str | None = None,
        occurred_at: datetime | None = None,
        value: float | Decimal | None = None,
    ) -> None:
        """Store what a user did, or remember it in the session of a visitor.

        Args:
            who: The request, a user or a user id. A visitor who is not logged in has
                it in the session; it is recorded when they log in.
            item: An instance, or its id.
            kind: What happened, such as "view".
            request_id: The page that led to it, or its ``request_id``; text that is
                none, as a form may send, counts as none.
            occurred_at: When; default now.
            value: What it was worth.

        Raises:
            ConfigError: The kind has no weight, nobody is named, or an id has the
                wrong type.
        """
        item_id = self.id_of(item)
        user = self._who(who)[0]
        if user is None:
            if not isinstance(who, HttpRequest):
                raise ConfigError(
                    "record() needs somebody: a request, a user or a user id",
                    hint="shop.record(request, product, 'view') also serves visitors.",
                )
            visitor_of(who).touch(self.name, item_id, kind)
            return
        with raising(TERMS):
            self.core.record(
                user,
                item_id,
                kind,
                occurred_at=occurred_at,
                request_id=request_id_of(request_id),
                value=value,
            )

    def id_of(self, item: M | ItemId) -> ItemId:
        """Return the item id of an instance, or an id in the type of its field.

        Raises:
            ConfigError: It is neither.
        """
        field = self.field
        if isinstance(item, Model):
            wanted = field.model._meta.concrete_model
            if wanted is None or not isinstance(item, wanted):
                raise ConfigError(
                    f"{type(item).__name__} is no item of {self.name!r}: those are "
                    f"{field.model.__name__}"
                )
            return cast("ItemId", getattr(item, field.attname))
        try:
            found = cast("Any", self.value_field).to_python(item)
        except ValidationError as exc:
            raise ConfigError(f"{item!r:.80} is no item id: {exc.messages[0]}") from exc
        return cast("ItemId", found)

    def _who(self, who: Who) -> tuple[UserId | None, list[ItemId] | None, str | None]:
        """Return user id, history of the session and unit."""
        if who is None:
            return None, None, None
        if isinstance(who, HttpRequest):
            visitor = visitor_of(who)
            if visitor.user_id is not None:
                return visitor.user_id, None, visitor.unit
            seen: list[ItemId] = []
            for item in visitor.history(self.name):
                with suppress(ConfigError):  # ids were of another type once
                    seen.append(self.id_of(item))
            return None, seen or None, visitor.unit
        if getattr(who, "is_anonymous", False):
            return None, None, None
        user = user_id_of(who) if isinstance(who, Model) else who
        return user, None, str(user)

    def _arguments(self, **given: Any) -> dict[str, Any]:
        """Return the arguments of the core, without those left out."""
        after = given.pop("after")
        among, boost, rules = (given.pop(key) for key in ("among", "boost", "rules"))
        kept = {key: value for key, value in given.items() if value is not None}
        kept["exclude"] = [self.id_of(item) for item in given["exclude"]]
        if after:
            kept["after"] = (
                after.page
                if isinstance(after, ModelPage)
                else after
                if isinstance(after, Page)
                else [self.id_of(item) for item in after]
            )
        among = self._among(among)
        if among is not None:
            kept["among"] = self._query(among, 1)
        if isinstance(boost, Mapping):
            amounts = cast("Mapping[Any, float]", boost)
            kept["boost"] = {self.id_of(item): n for item, n in amounts.items()}
        elif boost is not None:
            kept["boost"] = self._query(boost, 2)
        if rules is not None:
            kept["rules"] = self._rules(rules)
        return kept

    def _among(self, among: Query | None) -> Query | None:
        """Return the filter of an answer: the recommender's own, and the request's."""
        own = self.items_of()
        if not cast("Any", own).query.where:
            return among
        return own if among is None else within(own, among, self.field)

    def _rules(self, rules: Rules) -> Rules:
        """Return rules in the terms of the core: ids and SQL."""
        if isinstance(rules.per, str) and rules.per.isidentifier():
            raise ConfigError(
                f"rules.per is {rules.per!r}, and needs a query of two columns",
                hint="Such as per=Product.objects.values_list('pk', 'category').",
            )
        return replace(
            rules,
            pin=[self.id_of(cast("Any", item)) for item in rules.pin],
            bury=[self.id_of(cast("Any", item)) for item in rules.bury],
            per=None if rules.per is None else self._query(rules.per, 2),
            fresh=rules.fresh
            and replace(rules.fresh, times=self._query(rules.fresh.times, 2)),
        )

    def _query(self, query: Any, columns: int) -> Any:
        """Return a QuerySet as SQL, now that the field of the items is known."""
        found = queryset_of(query)
        if found is None:
            self._check_no_ids(query)
            return query
        source = DjangoSource(conf.current().database)
        return sql_of(found, columns, source, item=self.field) or found.none()

    def _check_no_ids(self, query: Any) -> None:
        """Refuse a bare list of ids, and name the QuerySet that means it."""
        pair = isinstance(query, tuple) and query and isinstance(query[0], str)  # pyright: ignore[reportUnknownVariableType]
        if isinstance(query, (list, tuple, set, frozenset)) and not pair:
            name = self.items_of().model.__name__
            raise ConfigError(
                f"a {type(query).__name__} is no query",  # pyright: ignore[reportUnknownArgumentType]
                hint=f"Pass {name}.objects.filter({self._item_field}__in=[...]).",
            )

    def _filled(self, page: Page, loading: QuerySet[M], channel: str) -> ModelPage[M]:
        return filled(page, loading, self.field, channel)

    def _loading(
        self, queryset: QuerySet[M] | None, among: Query | None
    ) -> QuerySet[M]:
        """Return the QuerySet that loads the instances of an answer."""
        if queryset is not None:
            return checked(queryset, self.items_of())
        base = self.items_of()
        # What the recommender was given says how to load, unless it was a mere model.
        return (
            suited(queryset_of(among), base) if isinstance(self._items, type) else base
        )
