"""Visitors: a session's history before a login, the user's after it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core import signing
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.template import Context, RequestContext, Template
from django.test import Client, RequestFactory, TransactionTestCase
from django.test import TestCase as DjangoTestCase
from django_project import Changes
from django_store.models import Product
from django_store.recommenders import shop
from world import Shop

from recsys import _db, rollout
from recsys.django import Visitor, _visitor
from recsys.django.middleware import RecsysMiddleware
from recsys.errors import ConfigError


def _interactions(store: Shop) -> list[tuple[str, str, str]]:
    with _db.connect(store.dsn) as conn:
        return conn.execute(
            "select user_id, item_id, kind from recsys.interaction order by occurred_at"
        ).fetchall()


def test_a_visitor_who_only_looks_gets_no_session(store: Shop) -> None:
    client = Client()

    answer = client.get("/").json()

    assert len(answer["ids"]) == 5
    assert answer["unit"] is None
    assert not Session.objects.exists()
    assert "Cookie" not in client.get("/").get("Vary", "") or not client.cookies


def test_each_click_of_a_visitor_changes_the_page(store: Shop) -> None:
    client = Client()
    before = client.get("/").json()

    history = client.get("/click/42/").json()["history"]
    once = client.get("/").json()
    again = client.get("/click/7/").json()["history"]
    twice = client.get("/").json()

    assert (history, again) == (["42"], ["7", "42"])
    assert before["ids"] != once["ids"] != twice["ids"]
    assert 42 not in once["ids"]
    assert once["ids"] == shop.recommend(history=[42], unit=once["unit"], k=5).ids
    assert once["unit"] == twice["unit"] is not None
    assert not _interactions(store)


def test_the_history_of_a_session_is_bounded_and_without_repeats(
    store: Shop, settings_: Changes
) -> None:
    settings_.set(RECSYS={"SESSION_ITEMS": 3})
    client = Client()

    for item in (1, 2, 3, 4, 2):
        history = client.get(f"/click/{item}/").json()["history"]

    assert history == ["2", "4", "3"]


def test_a_login_hands_the_history_over(store: Shop) -> None:
    user = User.objects.create_user("carol", password="x", id=7)
    client = Client()
    client.get("/click/42/")
    client.get("/click/17/?kind=cart")

    client.force_login(user)
    after = client.get("/").json()

    assert _interactions(store) == [("7", "42", "view"), ("7", "17", "cart")]
    assert after["unit"] == "7"
    assert after["ids"] == shop.recommend(7, k=5).ids
    assert client.get("/click/3/").json()["history"] == []
    assert _interactions(store)[-1] == ("7", "3", "view")


def test_a_login_does_not_fail_with_the_recommender(
    store: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    user = User.objects.create_user("carol", password="x", id=7)
    client = Client()
    client.get("/click/42/?kind=unknown")

    client.force_login(user)

    assert client.get("/").json()["unit"] == "7"
    assert "not handed over" in caplog.text
    assert not _interactions(store)


def test_a_login_hands_nothing_over_where_the_settings_say_so(
    store: Shop, settings_: Changes
) -> None:
    settings_.set(RECSYS={"HAND_OVER": False})
    user = User.objects.create_user("carol", password="x", id=7)
    client = Client()
    client.get("/click/42/")

    client.force_login(user)

    assert not _interactions(store)
    assert client.get("/click/3/").json()["history"] == []


def test_a_request_without_sessions_is_nobody(store: Shop) -> None:
    request = RequestFactory().get("/")

    page = shop.recommend(request, k=3)

    assert page.ids == shop.recommend(k=3).ids
    assert request.recsys.unit is None


@pytest.mark.parametrize(
    "held",
    [
        "text",
        {"seen": [1]},
        {"seen": {"shop": 5}, "unit": 7},
        {"seen": {"shop": [["x", "view", "2026-01-01T00:00:00+00:00"]]}},
        {"seen": {"shop": [["3", "view", "yesterday"], ["4"], 5, [1, 2, 3]]}},
    ],
)
def test_a_session_of_another_layout_is_passed_over(store: Shop, held) -> None:
    request = RequestFactory().get("/")
    request.session = {"_recsys": held}

    page = shop.recommend(request, k=3)
    shop.record(request, 42, "view")

    assert page.ids == shop.recommend(k=3).ids
    assert Visitor(request).history("shop")[0] == "42"


def test_a_deleted_product_costs_a_login_nothing(
    store: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "create table known (item_id text primary key);"
            "insert into known values ('17');"
            "alter table recsys.interaction add foreign key (item_id)"
            " references known deferrable initially deferred"
        )
    user = User.objects.create_user("carol", password="x", id=7)
    request = RequestFactory().get("/")
    request.session = {}
    for item in (17, 42):
        Visitor(request).touch("shop", item, "view")

    with transaction.atomic():
        _visitor.hand_over(None, request=request, user=user)

    assert _interactions(store) == [("7", "17", "view")]
    assert Visitor(request).models() == []
    assert "item '42' of 'shop' was not handed over" in caplog.text


def test_a_session_in_a_cookie_keeps_what_fits(settings_: Changes) -> None:
    settings_.set(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
    request = RequestFactory().get("/")
    request.session = {}
    for item in range(50):
        Visitor(request).touch("shop" if item % 2 else "books", f"{item}" * 9, "view")

    kept = signing.dumps(request.session, compress=True)

    assert len(kept) < 3800
    assert Visitor(request).history("shop")[0] == "49" * 9


def test_the_key_in_the_session_can_be_another(settings_: Changes) -> None:
    settings_.set(RECSYS={"SESSION_KEY": "seen_items"})
    request = RequestFactory().get("/")
    request.session = {}
    Visitor(request).touch("shop", 3, "view")

    assert list(request.session) == ["seen_items"]


def test_a_visitor_without_sessions_is_not_remembered(store: Shop) -> None:
    with pytest.raises(ConfigError, match="SessionMiddleware"):
        shop.record(RequestFactory().get("/"), 3, "view")


def test_the_middleware_serves_async_requests() -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(type(request.recsys).__name__)

    handler = RecsysMiddleware(view)
    response = asyncio.run(handler(RequestFactory().get("/")))

    assert response.content == b"Visitor"


def test_template_tags_recommend_to_who_asks(store: Shop) -> None:
    request = RequestFactory().get("/")
    request.session = {}
    Visitor(request).touch("shop", 42, "view")
    template = Template(
        "{% load recsys %}{% recommend 'shop' k=3 as page %}"
        "{% for p in page %}{{ p.pk }} {% endfor %}|"
        "{% similar 'shop' product k=2 as others %}"
        "{% for p in others %}{{ p.pk }} {% endfor %}|"
        "{% similar 'shop' 999999 as none %}{{ none|length }}"
        "{% similar 'shop' nothing as none %}{{ none|length }}"
    )
    context = {"product": Product.objects.get(pk=3)}

    shown = template.render(RequestContext(request, context))
    plain = template.render(Context(context))

    expected, others, none = (part.split() for part in shown.split("|"))
    assert expected == [str(i) for i in shop.recommend(history=[42], k=3).ids]
    assert others == [str(i) for i in shop.similar(3, k=2).ids]
    assert none == ["00"]
    assert plain.split("|")[0].split() == [str(i) for i in shop.recommend(k=3).ids]


def test_a_template_tag_names_a_recommender_nobody_made(store: Shop) -> None:
    with pytest.raises(ConfigError, match="no recommender was made"):
        Template("{% load recsys %}{% recommend 'books' %}").render(Context())


class Cases:
    """What a project's own tests look like."""

    def test_a(self) -> None:
        page = shop.recommend(7, k=5)
        shop.record(7, page[0], "view")
        with self.assertNumQueries(3 + 2):  # and the savepoint of the instances
            again = shop.recommend(7, k=5)
        with _db.connect(Case.dsn) as conn:
            rows = conn.execute("select count(*) from recsys.interaction").fetchone()
        assert rows == (0,)
        assert len(again) == 5

    def test_b(self) -> None:
        from recsys.django._source import DjangoSource

        with DjangoSource("default").use() as conn:
            rollout.promote(conn, "shop", 2, reason="test", force=True)
        assert shop.recommend(7, k=5).version == 2

    def test_c(self) -> None:
        assert shop.recommend(7, k=5).version == 1


class Case(Cases, DjangoTestCase):
    __test__ = False
    dsn = ""


@pytest.fixture
def case(store: Shop) -> Iterator[type[Case]]:
    Case.dsn = store.dsn
    yield Case
    assert issubclass(Case, TransactionTestCase)


def test_the_transactions_of_a_test_case_hold(case: type[Case]) -> None:
    import unittest

    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    result = unittest.TestResult()
    suite.run(result)

    assert result.testsRun == 3
    assert not [*result.errors, *result.failures], [*result.errors, *result.failures]


def test_atomic_requests_are_honoured(store: Shop, settings_: Changes) -> None:
    user = User.objects.create_user("carol", password="x", id=7)
    client = Client(raise_request_exception=False)
    client.force_login(user)
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        good = client.get("/click/3/")
        bad = client.get("/click/4/?then=fail")
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False

    assert (good.status_code, bad.status_code) == (200, 500)
    assert [row[1] for row in _interactions(store)] == ["3"]
