"""recommend() in Django: instances in order, the app's own connection and QuerySets."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import FieldError
from django.db import connection, transaction
from django.db.models import Count
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext
from django_project import Changes
from django_store.models import Event, Product
from django_store.recommenders import shop
from world import NOW, Shop

from recsys import Recommender, _db, observe, rollout
from recsys.django import recommender
from recsys.errors import ConfigError, DatabaseUnavailable, SourceError, UnknownItem
from recsys.rules import Fresh, Rules


def test_a_page_holds_instances_in_the_order_of_the_ids(store: Shop) -> None:
    page = shop.recommend(7, k=10)

    with Recommender("shop", dsn=store.dsn) as core:
        assert page.ids == core.recommend(7, k=10).ids
    assert [product.pk for product in page] == page.ids
    assert all(type(product) is Product for product in page)
    scores = [product.recsys_score for product in page]
    assert scores == sorted(scores, reverse=True)
    assert page[0] == page.items[0]
    assert page[:2] == page.items[:2]
    assert (page.model, page.version, page.degraded) == ("shop", 1, None)
    assert isinstance(page.request_id, UUID)


def test_an_answer_is_two_statements_and_one_query_of_the_application(
    store: Shop,
) -> None:
    shop.recommend(7)

    with CaptureQueriesContext(
        connection,
    ) as seen:
        shop.recommend(7, k=5)

    said = [query["sql"] for query in seen.captured_queries]
    assert len(said) == 3
    assert "recsys._state_shop_1" in said[0]
    assert "recsys._search_shop_1" in said[1]
    assert 'FROM "product"' in said[2]


def test_the_queryset_decides_how_instances_are_loaded(store: Shop) -> None:
    shop.recommend(7)
    among = (
        Product.objects.filter(price__gt=1)
        .annotate(clicks=Count("events"))
        .prefetch_related("events")
    )

    with CaptureQueriesContext(connection) as seen:
        page = shop.recommend(7, k=5, among=among)
        kinds = [event.kind for product in page for event in product.events.all()]
        clicks = [product.clicks for product in page]

    assert len(seen.captured_queries) == 4
    assert sum(clicks) == len(kinds) > 0


def test_a_recommender_made_of_a_queryset_loads_by_it(store: Shop) -> None:
    own = recommender("shop", Product.objects.only("title"))

    try:
        page = own.recommend(7, k=3, among=Product.objects.filter(price__gt=1))
        other = own.recommend(7, k=3, queryset=Product.objects.defer("title"))
    finally:
        recommender("shop", Product)

    assert page[0].get_deferred_fields() >= {"price", "brand"}
    assert other[0].get_deferred_fields() == {"title"}


def test_pages_follow_each_other_without_repeats(store: Shop) -> None:
    first = shop.recommend(7, k=6)
    second = first.next()
    third = second.next(3)

    shown = [product.pk for page in (first, second, third) for product in page]
    assert len(shown) == len(set(shown)) == 15
    assert list(third.shown) == shown
    assert shop.recommend(7, k=6, after=first).ids == second.ids
    assert shop.recommend(7, k=6, after=first.ids).ids == second.ids
    sent = [str(pk) for pk in first.ids]  # as a link or a form brings them back
    assert shop.recommend(7, k=6, after=sent).ids == second.ids


def test_similar_items_of_an_instance_or_an_id(store: Shop) -> None:
    product = Product.objects.get(pk=5)

    page = shop.similar(product, k=4, exclude=[Product.objects.get(pk=1)])

    assert product not in page
    assert page.ids == shop.similar("5", k=4, exclude=[1], who=AnonymousUser()).ids
    assert [item.pk for item in page] == page.ids
    with pytest.raises(UnknownItem):
        shop.similar(999_999)


def test_a_user_sees_one_version_in_both_kinds_of_answer(store: Shop) -> None:
    with _db.connect(store.dsn) as conn:
        rollout.promote(conn, "shop", 2, percent=50, reason="test", force=True)

    seen = set()
    for pk in range(1, 21):
        user = User(pk=pk)
        version = shop.recommend(user, k=1).version
        assert shop.similar(3, who=user, k=1).version == version
        seen.add(version)

    assert seen == {1, 2}
    assert shop.similar(3, k=1).version == 1


def test_users_ids_and_nobody(store: Shop) -> None:
    user = User.objects.create_user("bob", id=7)

    assert shop.recommend(user, k=5).ids == shop.recommend(7, k=5).ids
    assert shop.recommend(AnonymousUser(), k=5).ids == shop.recommend(k=5).ids
    history = [Product.objects.get(pk=3), 14]
    page = shop.recommend(history=history, k=5, context={"device": "desk"})
    assert (
        page.ids == shop.recommend(history=[3, 14], k=5, context={"device": "desk"}).ids
    )


def test_boosts_rules_and_thresholds_take_instances_and_querysets(store: Shop) -> None:
    last = shop.recommend(7, k=100)[-1]
    per = Product.objects.values_list("pk", "brand")

    pinned = shop.recommend(7, k=6, rules=Rules(pin=[last], at_most=2, per=per))
    boosted = shop.recommend(7, k=6, boost={last: 100.0})
    fresh = Fresh(
        Product.objects.values_list("pk", "created_at"), timedelta(days=1000), 0.5
    )
    recent = shop.recommend(7, k=6, rules=Rules(fresh=fresh))
    least = shop.recommend(7, k=100, min_score=float(pinned[1].recsys_score))

    assert pinned[0] == last
    brands = [product.brand for product in pinned]
    assert max(brands.count(brand) for brand in brands) <= 2
    assert boosted[0] == last
    assert len(recent) == 6
    assert 1 <= len(least) < 100


def test_a_record_is_seen_by_the_next_answer_and_rolled_back_with_it(
    store: Shop,
) -> None:
    first = shop.recommend(7, k=5)
    with transaction.atomic():
        shop.record(7, first[0], "view", request_id=first, value=3)
        inside = shop.recommend(7, k=5)
        transaction.set_rollback(True)
    outside = shop.recommend(7, k=5)

    assert _stored(store) == 0
    assert len(inside) == 5
    assert outside.ids == first.ids


def test_a_record_is_committed_where_django_commits(store: Shop) -> None:
    page = shop.recommend(7, k=1)

    shop.record(7, page[0], "view", request_id=str(page.request_id))
    shop.record(7, page[0], "view", request_id="what a form sent")

    with _db.connect(store.dsn) as conn:
        rows = conn.execute(
            "select request_id from recsys.interaction order by request_id"
        ).fetchall()
    assert rows == [(page.request_id,), (None,)]


def _stored(store: Shop) -> int:
    with _db.connect(store.dsn) as conn:
        return conn.execute("select count(*) from recsys.interaction").fetchone()[0]


def test_no_setting_stays_on_the_connection(store: Shop) -> None:
    names = ("hnsw.ef_search", "statement_timeout", "enable_seqscan", "work_mem")

    def values() -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("select '[1]'::vector")
            found = []
            for name in names:
                cursor.execute("select current_setting(%s)", [name])
                found.append(cursor.fetchone()[0])
            return found

    before = values()
    with transaction.atomic():
        shop.recommend(7, among=Product.objects.filter(price__gt=5), timeout_ms=5000)
        inside = values()

    assert before == inside == values()
    assert connection.connection.cursor_factory.__module__.startswith("django.")


def test_an_error_of_a_filter_leaves_the_transaction_usable(store: Shop) -> None:
    with transaction.atomic():
        with pytest.raises(SourceError):
            shop.recommend(7, among="select id from no_such_table")
        shop.record(7, 3, "view")
        assert Product.objects.count() == 200

    assert _stored(store) == 1


def test_inside_a_broken_transaction_the_page_says_so(store: Shop) -> None:
    shop.recommend(7)

    def fail() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("select 1/0")

    with transaction.atomic():
        with (
            pytest.raises(Exception, match="zero"),
            transaction.atomic(savepoint=False),
        ):
            fail()
        page = shop.recommend(7, k=5)
        with pytest.raises((TransactionManagementError, psycopg.Error)):
            shop.record(7, 3, "view")
        transaction.set_rollback(True)

    assert page.degraded == "aborted transaction"
    assert list(page) == []
    assert shop.recommend(7, k=5).degraded is None


def test_django_and_the_recommender_recover_from_a_server_that_went_away(
    store: Shop,
) -> None:
    shop.recommend(7, k=5)
    with psycopg.connect(store.dsn, autocommit=True) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )

    lost = shop.recommend(7, k=5)
    again = shop.recommend(7, k=5)

    assert lost.degraded in (None, "database")
    assert again.degraded is None
    assert len(again) == 5
    assert Product.objects.count() == 200


def test_without_a_fallback_an_unreachable_database_raises(
    store: Shop, settings_: Changes
) -> None:
    connection.close()
    kept = connection.settings_dict["PORT"]
    connection.settings_dict["PORT"] = "1"
    settings_.set(RECSYS={"FALLBACK": False})
    try:
        with pytest.raises(DatabaseUnavailable, match="Django cannot connect"):
            shop.recommend(7)
    finally:
        connection.settings_dict["PORT"] = kept


def test_an_instance_that_went_away_is_left_out(store: Shop) -> None:
    page = shop.recommend(7, k=5)
    with connection.cursor() as cursor:
        cursor.execute("delete from product where id = %s", [page.ids[0]])

    again = shop.recommend(7, k=5)

    assert again.ids == page.ids
    assert [product.pk for product in again] == page.ids[1:]


def test_observers_are_told_how_long_instances_took(store: Shop) -> None:
    class Seen:
        def __init__(self) -> None:
            self.told: list[tuple[object, float, str]] = []

        def __call__(self, event: observe.Answered) -> None:
            pass

        def hydrated(self, page: object, ms: float, channel: str) -> None:
            self.told.append((page, ms, channel))

    seen = Seen()
    observe.add(seen)
    try:
        page = shop.recommend(7, k=2)
        shop.similar(3, k=2)
    finally:
        observe.remove(seen)

    assert [told[2] for told in seen.told] == ["two-tower", "similar"]
    assert seen.told[0][0] is page.page
    assert seen.told[0][1] > 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: shop.record(None, 3, "view"), "needs somebody"),
        (lambda: shop.record(AnonymousUser(), 3, "view"), "needs somebody"),
        (lambda: shop.record(7, "x' or 1=1", "view"), "no item id"),
        (lambda: shop.similar(User(pk=3)), "User is no item"),
        (lambda: shop.recommend(7, exclude=["a"]), "no item id"),
        (lambda: shop.recommend("seven"), "user_id"),
        (lambda: shop.recommend(7, k=0), "k must be"),
        (lambda: recommender("shop", Product.objects.values("pk")), "of instances"),
        (lambda: recommender("shop", "Product"), "Django model"),
    ],
)
def test_wrong_arguments_are_named(store: Shop, call, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call()


def test_errors_of_a_queryset_are_djangos(store: Shop) -> None:
    with pytest.raises(FieldError):
        shop.recommend(7, among=Product.objects.filter(nothing=1))


def test_a_queryset_that_fails_in_the_database_is_named(store: Shop) -> None:
    broken = Product.objects.extra(where=["price / (id - id) > 1"])

    with pytest.raises(SourceError, match="among"):
        shop.recommend(7, among=broken)


def test_impressions_go_where_the_settings_say(
    store: Shop, settings_: Changes, tmp_path
) -> None:
    settings_.set(RECSYS={"IMPRESSIONS": "transaction"})

    with transaction.atomic():
        shop.recommend(7, k=3)
        transaction.set_rollback(True)
    kept = shop.recommend(7, k=4)

    with _db.connect(store.dsn) as conn:
        rows = conn.execute(
            "select request_id, count(*) from recsys.impression_item group by 1"
        ).fetchall()
    assert rows == [(kept.request_id, 4)]


def test_impressions_are_written_in_the_background(
    store: Shop, settings_: Changes
) -> None:
    settings_.set(RECSYS={"IMPRESSIONS": "background"})

    page = shop.recommend(7, k=4)
    shop.core.close()

    with _db.connect(store.dsn) as conn:
        row = conn.execute("select count(*) from recsys.impression_item").fetchone()
    assert row == (4,)
    assert page.degraded is None


def test_an_unknown_page_id_is_refused_only_as_a_type(store: Shop) -> None:
    shop.record(7, 3, "view", request_id=uuid4(), occurred_at=NOW)

    with pytest.raises(ConfigError, match="request_id"):
        shop.record(7, 3, "view", request_id=3)


def test_events_are_no_items(store: Shop) -> None:
    with pytest.raises(ConfigError, match="holds no items"):
        shop.recommend(7, among=Event.objects.all())
