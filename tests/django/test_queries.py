"""Any QuerySet is a filter: what it selects is what may be recommended."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import (
    Avg,
    Case,
    Count,
    Exists,
    F,
    IntegerChoices,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    TextChoices,
    TextField,
    Value,
    When,
    Window,
)
from django.db.models.functions import Concat, Lower, Rank
from django.test.utils import CaptureQueriesContext
from django.utils.functional import lazystr
from django_project import Changes
from django_store.models import Event, Product
from django_store.recommenders import shop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import NOW, Shop

from recsys import Recommender
from recsys.django import ModelRecommender
from recsys.django._queries import sql_of
from recsys.django._source import DjangoSource
from recsys.errors import ConfigError
from recsys.rules import Rules

P = Product.objects


class Kind(TextChoices):
    VIEW = "view"
    CART = "cart"


class Shelf(IntegerChoices):
    THIRD = 3


FILTERS: dict[str, Callable[[], QuerySet[Product]]] = {
    "ordered union": lambda: (
        P.filter(pk__lt=50).union(P.filter(pk__gt=70)).order_by("price")[:10]
    ),
    "all": lambda: P.all(),
    "manager": lambda: P,
    "number": lambda: P.filter(price__lt=Decimal("15.5")),
    "times": lambda: P.filter(created_at__range=(NOW - timedelta(days=90), NOW)),
    "list": lambda: P.filter(pk__in=[1, 2, 3, 99, 100_000]),
    "quotes": lambda: P.filter(~Q(title='it\'s 100 % \\ "x"; --')),
    "percent": lambda: P.filter(title__contains="%") | P.filter(title__icontains="R"),
    "unicode": lambda: P.filter(brand__in=["Ünïted", "شركة", "🍏"]),
    "lazy": lambda: P.filter(brand=lazystr("Acme")),
    "choices": lambda: P.filter(events__kind=Kind.CART).distinct(),
    "integer choices": lambda: P.filter(shelf__lte=Shelf.THIRD),
    "join": lambda: P.filter(events__kind="purchase"),
    "distinct join": lambda: P.filter(events__kind="purchase").distinct(),
    "distinct on": lambda: P.order_by("brand", "price", "pk").distinct("brand"),
    "having": lambda: P.annotate(n=Count("events")).filter(n__gte=3),
    "annotated": lambda: P.annotate(n=Count("events")),
    "exists": lambda: P.filter(Exists(Event.objects.filter(product=OuterRef("pk")))),
    "subquery": lambda: P.filter(
        price__gt=Subquery(
            P.order_by()
            .values("brand")
            .annotate(a=Avg("price"))
            .filter(brand="Acme")
            .values("a")
        )
    ),
    "expression": lambda: P.annotate(
        both=Concat(Lower("brand"), Value("%s"), output_field=TextField())
    ).filter(both__startswith="a"),
    "case": lambda: P.annotate(x=Case(When(price__gt=20, then=1), default=0)).filter(
        x=1
    ),
    "window": lambda: P.annotate(
        r=Window(Rank(), partition_by="brand", order_by="price")
    ).filter(r__lte=2),
    "f": lambda: P.filter(price__gt=F("shelf")),
    "sliced": lambda: P.order_by("-price")[:7],
    "sliced later": lambda: P.order_by("price", "pk")[3:9],
    "sliced distinct": lambda: (
        P.filter(events__kind="view").order_by("title", "pk").distinct()[:5]
    ),
    "union": lambda: P.filter(pk__lt=4).union(P.filter(pk__gt=197)),
    "only": lambda: P.only("title").filter(pk__lt=9),
    "ordered": lambda: P.order_by("-created_at").filter(pk__lt=9),
    "reversed": lambda: P.reverse().filter(pk__lt=9),
    "extra": lambda: P.extra(where=["price < %s"], params=[12]),
}


@pytest.fixture(scope="module")
def sold(server: str, store_template: Shop):
    """A copy of the shop that these tests only read."""
    import world
    from django.db import connection
    from django_project import point

    with world.database(server, world.name_of(store_template.dsn)) as dsn:
        point("default", dsn)
        yield Shop(dsn, store_template.learned)
        connection.close()


@pytest.mark.parametrize("name", FILTERS)
def test_what_a_queryset_selects_is_what_is_recommended(sold: Shop, name: str) -> None:
    among = FILTERS[name]()
    wanted = {product.pk for product in among.all()}

    page = shop.recommend(7, k=300, among=among, exclude_seen=False)
    plain = Recommender("shop", connection=DjangoSource("default"))
    ids = plain.recommend(7, k=300, among=among, exclude_seen=False).ids

    assert wanted
    assert set(page.ids) == wanted == set(ids)
    assert {product.pk for product in page} == wanted


def test_what_is_known_to_match_nothing_is_not_asked(sold: Shop) -> None:
    source = DjangoSource("default")

    assert sql_of(P.none(), 1, source) is None
    assert sql_of(P.filter(pk__in=[]).values_list("pk", "brand"), 2, source) is None


def test_a_filter_locks_nothing(sold: Shop) -> None:
    among = P.select_for_update().filter(pk__lt=9)

    text, _ = sql_of(among, 1, DjangoSource("default"))

    assert "FOR UPDATE" not in text


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (lambda: P.filter(pk__lt=5).values("pk"), {1, 2, 3, 4}),
        (lambda: P.filter(pk__lt=5).values("id"), {1, 2, 3, 4}),
        (lambda: P.filter(pk__lt=5).values_list("pk", flat=True), {1, 2, 3, 4}),
        (lambda: P.filter(pk__lt=5).values_list("id", named=True), {1, 2, 3, 4}),
        (lambda: P.filter(pk__lt=5).values(x=F("pk")), {1, 2, 3, 4}),
        (lambda: Event.objects.filter(product__lt=3).values("product"), {1, 2}),
        (lambda: Event.objects.filter(product__lt=3).values("product_id"), {1, 2}),
        (lambda: Event.objects.filter(product__lt=3).values("product__pk"), {1, 2}),
        (lambda: P.none(), set()),
        (lambda: P.filter(pk__in=[]), set()),
        (lambda: P.filter(price__lt=0), set()),
        (lambda: P.none().values("pk"), set()),
    ],
)
def test_values_of_an_item_are_items(sold: Shop, values, wanted: set[int]) -> None:
    page = shop.recommend(7, k=50, among=values(), exclude_seen=False)

    assert set(page.ids) <= wanted
    assert len(page) == len(set(page.ids))
    if wanted == {1, 2, 3, 4}:
        assert set(page.ids) == wanted
    assert page.degraded is None


@pytest.mark.parametrize(
    ("among", "said"),
    [
        (lambda: P.using("other").all(), "uses the database 'other'"),
        (lambda: P.values("title"), "Product.title holds no item ids"),
        (lambda: P.values("shelf"), "Product.shelf holds no item ids"),
        (lambda: Event.objects.values("customer_id"), "holds no item ids"),
        (lambda: Event.objects.values("product__shelf"), "holds no item ids"),
        (lambda: P.values("pk", "title"), "selects 2 columns"),
        (lambda: P.values(), "selects 6 columns"),
        (lambda: User.objects.all(), "QuerySet of User holds no items"),
        (lambda: P.raw("select id from product"), "raw QuerySet"),
        (lambda: Product, "expected a QuerySet, got ModelBase"),
        (lambda: [1, 2], r"list is no query\nHint: .*Product.objects.filter\(pk__in="),
        (lambda: P.first(), "expected a QuerySet, got Product"),
    ],
)
def test_what_is_no_filter_is_refused(sold: Shop, among, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shop.recommend(7, among=among())


@pytest.mark.parametrize(
    ("boost", "said"),
    [
        (lambda: P.all(), "no 2 columns"),
        (lambda: P.values("pk"), "selects 1 columns"),
        (lambda: P.values_list("price", "pk"), "Product.price holds no item ids"),
    ],
)
def test_a_boost_needs_two_columns(sold: Shop, boost, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shop.recommend(7, boost=boost())


def test_the_item_comes_first_whatever_the_kind_of_column(sold: Shop) -> None:
    source = DjangoSource("default")
    query = P.annotate(n=Count("events")).values_list("pk", "n")

    text, _ = sql_of(query, 2, source)

    assert text.index('"product"."id"') < text.index("COUNT")
    assert shop.recommend(7, k=3, boost=query)


class Elsewhere:
    """A router that keeps products in another database."""

    def db_for_write(self, model, **hints: object) -> str | None:
        return "other" if model is Product else None


class Replica:
    """A router that reads from a replica."""

    def db_for_read(self, model, **hints: object) -> str | None:
        return "other"

    def db_for_write(self, model, **hints: object) -> str | None:
        return "default"


def test_the_router_says_where_a_model_lives(sold: Shop, settings_: Changes) -> None:
    settings_.set(DATABASE_ROUTERS=[Elsewhere()])
    with pytest.raises(ConfigError, match="router keeps in the database 'other'"):
        shop.recommend(7, among=P.filter(pk=1))

    settings_.set(DATABASE_ROUTERS=[Replica()])
    page = shop.recommend(7, among=P.filter(pk=1), queryset=P.using("default"))
    assert page.ids == [1]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_no_text_breaks_out_of_a_parameter(sold: Shop, text: str) -> None:
    among = P.filter(~Q(title=text), brand__contains=text[:2]) | P.filter(title=text)

    page = shop.recommend(7, k=200, among=among, exclude_seen=False)

    assert set(page.ids) == set(among.values_list("pk", flat=True))


@pytest.mark.parametrize(
    ("queryset", "said"),
    [
        (lambda: P.all()[:5], "no values.., slice or union"),
        (lambda: P.all().union(P.all()), "no values.., slice or union"),
        (lambda: P.values("pk"), "a QuerySet of instances"),
        (lambda: User.objects.all(), "is one of User; the items are Product"),
    ],
)
def test_what_cannot_load_instances_is_refused(sold: Shop, queryset, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^queryset= .*{said}"):
        shop.recommend(7, queryset=queryset())


def test_a_column_is_no_query_of_keys(sold: Shop) -> None:
    with pytest.raises(ConfigError, match=r"values_list\('pk', 'category'\)"):
        shop.recommend(7, rules=Rules(at_most=1, per="brand"))


OWN = list(range(1, 60))


@pytest.mark.parametrize(
    ("among", "wanted"),
    [
        (None, 59),
        (lambda: P.filter(pk__gt=50), 9),
        (lambda: Event.objects.filter(product__gt=50).values("product"), None),
        (lambda: P.order_by("-pk").filter(pk__lt=55)[:3], 3),
        (lambda: "select id from product where id % 2 = 0", 29),
        (lambda: ("select id from product where id = any(%s)", [[3, 4, 300]]), 2),
        (lambda: P.none(), 0),
    ],
)
def test_the_items_of_a_recommender_filter_its_answers(
    sold: Shop, among, wanted: int | None
) -> None:
    some = ModelRecommender("shop", P.filter(pk__in=OWN))

    page = some.recommend(k=100, among=among and among())
    similar = some.similar(80, k=10)

    assert set(page.ids) <= set(OWN)
    assert len(page) == len(page.page)
    assert wanted is None or len(page) == wanted
    assert len(similar) == 10


def test_a_join_of_the_filter_does_not_multiply_what_is_loaded(sold: Shop) -> None:
    with CaptureQueriesContext(connection) as queries:
        page = shop.recommend(7, k=5, among=P.filter(events__kind="view"))

    assert len(page) == 5
    assert "event" not in queries[-1]["sql"]


def test_a_locked_queryset_is_a_filter_outside_of_atomic(sold: Shop) -> None:
    assert len(shop.recommend(7, k=5, among=P.select_for_update())) == 5


def test_what_is_no_user_is_refused(sold: Shop) -> None:
    with pytest.raises(ConfigError, match="Product is no user"):
        shop.recommend(Product(pk=7))
    with pytest.raises(ConfigError, match="not saved yet"):
        shop.recommend(User(username="x"))


def test_a_page_out_of_a_cache_is_a_page(sold: Shop) -> None:
    page = shop.recommend(7, k=5)
    again = pickle.loads(pickle.dumps(page))

    assert (list(again), again.ids) == (list(page), page.ids)
    assert shop.recommend(7, k=5, after=again).ids == page.next().ids
    with pytest.raises(ConfigError, match="out of a cache"):
        again.next()
