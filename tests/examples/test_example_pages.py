"""The example shops over HTTP: what a visitor sees is what they have looked at."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import time
from pathlib import Path

import psutil
import pytest
from shops import Refused, Shop, Visitor, names, rail, start

from recsys._db import connect


def some(shop: Shop, department: str, n: int) -> list[int]:
    rows = shop.rows(
        "select p.id from {}product as p join {}category as c on c.id = p.category_id"
        " where c.department = %s and p.in_stock order by p.id limit %s",
        department,
        n,
    )
    return [row[0] for row in rows]


def test_home_page_follows_what_a_visitor_looks_at(shop: Shop) -> None:
    visitor = Visitor(shop)
    before = rail(visitor.get("/"), "for-you")
    looked_at = some(shop, "plants", 4)

    for pk in looked_at:
        visitor.get(f"/product/{pk}/")
    page = visitor.get("/")
    after = rail(page, "for-you")

    assert len(before) == len(after) == 12
    assert before != after
    assert shop.departments(after).count("plants") >= 6
    assert shop.departments(before).count("plants") < 6
    assert not set(after) & set(looked_at)
    assert rail(page, "seen") == looked_at[::-1]


def test_home_page_varies_and_shows_nothing_sold_out(shop: Shop) -> None:
    visitor = Visitor(shop)
    for pk in some(shop, "coffee", 3):
        visitor.get(f"/product/{pk}/")
    shown = rail(visitor.get("/"), "for-you")

    kinds = shop.rows(
        "select category_id, count(*) from {}product where id = any(%s)"
        " group by category_id",
        shown,
    )
    assert max(n for _, n in kinds) <= 2

    shop.rows("update {}product set in_stock = false where id = %s", shown[0])
    try:
        again = rail(visitor.get("/"), "for-you")
    finally:
        shop.rows("update {}product set in_stock = true where id = %s", shown[0])
    assert len(again) == 12
    assert shown[0] not in again


def test_product_page_shows_similar_products(shop: Shop) -> None:
    for pk in (1, 5, 13, 35, 100):
        similar = rail(Visitor(shop).get(f"/product/{pk}/"), "similar")

        assert len(set(similar)) == 6
        assert pk not in similar
        assert shop.departments(similar).count(shop.departments([pk])[0]) >= 3


def test_what_is_similar_is_mostly_of_the_same_kind(shop: Shop) -> None:
    kinds = dict(shop.rows("select id, category_id from {}product"))
    near = {
        pk: [
            kinds[other]
            for other in rail(Visitor(shop).get(f"/product/{pk}/"), "similar")
        ]
        for pk in range(2, 26, 2)
    }

    assert sum(kinds[pk] == found[0] for pk, found in near.items()) >= 11
    assert sum(found.count(kinds[pk]) for pk, found in near.items()) >= 60  # of 72


@pytest.mark.parametrize(
    ("name", "likes"), [("ada", {"coffee", "desk"}), ("bo", {"trail", "ride"})]
)
def test_customers_see_their_taste(shop: Shop, name: str, likes: set[str]) -> None:
    visitor = Visitor(shop)
    visitor.sign_in(name)

    shown = shop.departments(rail(visitor.get("/"), "for-you"))

    assert sum(one in likes for one in shown) >= 8


def test_what_a_session_saw_becomes_the_customers(shop: Shop) -> None:
    visitor = Visitor(shop)
    visitor.get("/product/77/")
    people = "auth_user" if shop.name == "django" else "customer"
    column = "username" if shop.name == "django" else "name"
    query = (
        "select kind from {}event where product_id = 77 and customer_id ="
        f" (select id from {people} where {column} = 'chidi') and"
        " created_at > now() - interval '1 minute'"
    )
    assert shop.rows(query) == []

    visitor.sign_in("chidi")

    assert shop.rows(query) == [("view",)]
    assert rail(visitor.get("/"), "seen")[0] == 77


def test_a_wrong_password_is_refused(shop: Shop) -> None:
    page = Visitor(shop).sign_in("ada", "guess")

    assert "do not fit" in page
    assert "Sign out" not in page


def test_the_basket_is_recorded(shop: Shop) -> None:
    visitor = Visitor(shop)
    visitor.sign_in("dara")
    home = visitor.get("/")
    pk = rail(home, "for-you")[0]
    link = re.search(rf'href="(/product/{pk}/\?from=([^"]+))"', home)
    assert link
    page = visitor.get(link[1])

    page = visitor.post(f"/product/{pk}/basket/", page, **{"from": link[2]})

    assert "is in your basket" in page
    kinds = shop.rows(
        "select kind from {}event where product_id = %s order by id desc limit 3", pk
    )
    assert [kind for (kind,) in kinds].count("cart") == 1


def test_pages_of_a_department_repeat_nothing_and_leave_nothing_out(shop: Shop) -> None:
    visitor = Visitor(shop)
    for pk in some(shop, "kitchen", 2):
        visitor.get(f"/product/{pk}/")
    query = {"below": "100", "stock": "1", "sort": ""}
    shown: list[int] = []
    more = ""
    while True:
        page = visitor.get("/department/kitchen/", **query, shown=more)
        shown += rail(page, "list")
        button = re.search(r'name="shown" value="([\d-]+)"', page)
        if not button:
            break
        more = button[1]

    wanted = shop.rows(
        "select p.id from {}product as p join {}category as c on c.id = p.category_id"
        " where c.department = 'kitchen' and p.in_stock and p.price < 100"
    )
    assert len(shown) > 24
    assert sorted(shown) == sorted(pk for (pk,) in wanted)
    by_price = rail(visitor.get("/department/kitchen/", sort="price"), "list")
    assert by_price != shown[:24]


def test_search_finds_words_and_sorts_by_taste(shop: Shop) -> None:
    visitor = Visitor(shop)
    page = visitor.get("/search/", q="teapot")
    found = names(page, "list")
    nobody = rail(page, "list")
    for pk in nobody[-3:]:
        visitor.get(f"/product/{pk}/")

    mine = rail(visitor.get("/search/", q="teapot"), "list")

    assert found
    assert all("teapot" in name.lower() for name in found)
    assert mine != nobody
    matched = rail(visitor.get("/search/", q="teapot", sort="match"), "list")
    assert len(matched) == len(mine) == len(set(mine))


@pytest.mark.parametrize(
    "words", ["", "' or 1=1 --", "a & | ! <->", "%s %(x)s", "\0", "ß" * 500, "zzzz"]
)
def test_search_survives_any_words(shop: Shop, words: str) -> None:
    page = Visitor(shop).get("/search/", q=words)

    assert "<h1>" in page


@pytest.mark.parametrize(
    "path",
    [
        "/product/1/?from=nonsense",
        "/department/trail/?category=nope",
        "/department/coffee/?category=%00",
        "/product/1/?from=%00",
        "/department/trail/?shown=1-x-2&below=a&sort=zzz",
        "/department/trail/?shown=99999999999999999999",
        "/department/trail/?below=99999999999999999999999",
    ],
)
def test_odd_addresses_do_no_harm(shop: Shop, path: str) -> None:
    assert "<h1>" in Visitor(shop).get(path)


@pytest.mark.parametrize(
    "path",
    ["/nowhere/", "/department/nope/", f"/product/{2**31 - 1}/", f"/product/{2**63}/"],
)
def test_pages_that_are_not_there_are_missed(shop: Shop, path: str) -> None:
    with pytest.raises(Refused, match=": 404 ") as caught:
        Visitor(shop).get(path)

    if shop.name == "flask":  # Django shows its own page while DEBUG is on
        assert str(caught.value).endswith("404 Not Found · Pine &amp; Kettle")


def test_an_empty_search_asks_for_words(shop: Shop) -> None:
    page = Visitor(shop).get("/search/", q="")

    assert 'class="filter"' not in page
    assert "0 products" not in page
    assert "What are you looking for?" in page


def test_headings_leave_no_level_out(shop: Shop) -> None:
    for path in ("/", "/product/1/", "/department/ride/", "/search/?q=mug", "/login/"):
        levels = [int(n) for n in re.findall(r"<h(\d)", Visitor(shop).get(path))]

        assert levels[0] == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels


def test_what_the_table_says_is_never_markup(shop: Shop) -> None:
    evil = '"><script>alert(1)</script>'
    ((picture, name),) = shop.rows("select picture, name from {}product where id = 9")
    try:
        shop.rows("update {}product set name = %s where id = 9", evil)
        page = Visitor(shop).get("/product/9/")
        assert '<svg class="art"' in page
        assert "<script" not in page
        for odd in ("<script></script>", "tents-9", "nothing", ""):
            shop.rows("update {}product set picture = %s where id = 9", odd)
            assert "<script" not in Visitor(shop).get("/product/9/")
    finally:
        query = "update {}product set picture = %s, name = %s where id = 9"
        shop.rows(query, picture, name)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_forms_of_other_sites_are_refused(shop: Shop, headers: dict[str, str]) -> None:
    visitor = Visitor(shop)
    visitor.sign_in("dara")
    before = shop.rows("select count(*) from {}event where kind = 'cart'")
    visitor.headers = headers

    with pytest.raises(Refused, match=": 403 "):
        visitor.post("/product/3/basket/", "")

    assert shop.rows("select count(*) from {}event where kind = 'cart'") == before
    page = visitor.get("/product/3/")
    visitor.headers = {"Origin": shop.url}
    assert "is in your basket" in visitor.post("/product/3/basket/", page)


def test_a_cookie_may_outlive_its_customer(shop: Shop) -> None:
    people = "auth_user" if shop.name == "django" else "customer"
    column = "username" if shop.name == "django" else "name"
    columns = [
        name
        for (name,) in shop.rows(
            "select column_name::text from information_schema.columns"
            " where table_schema = 'public' and table_name = %s"
            " and column_name not in ('id', %s)",
            people,
            column,
        )
    ]
    kept = ", ".join(columns)
    shop.rows(
        f"insert into {people} ({column}, {kept})"
        f" select 'brief', {kept} from {people} where {column} = 'ada'"
    )
    visitor = Visitor(shop)
    assert "Sign out" in visitor.sign_in("brief")
    shop.rows(f"delete from {people} where {column} = 'brief'")

    page = visitor.get("/product/4/")

    assert "Sign in" in page
    assert len(rail(page, "for-you")) == 6


@pytest.mark.parametrize(
    "number", [{}, {"number": "abc"}, {"number": 0}, {"number": 2**63}]
)
def test_only_a_version_is_promoted(shops: dict[str, Shop], number: dict) -> None:
    shop = shops["flask"]
    visitor = Visitor(shop)
    visitor.sign_in("admin", "admin")

    with pytest.raises(Refused, match=": 400 "):
        visitor.post("/admin/promote/", "", reason="\0 a test", **number)
    page = visitor.post("/admin/promote/", "", reason="\0 a test", number=77)

    assert 'role="status"' in page
    assert shop.rows("select state from recsys.version_status") == [("serving",)]


def workers(dsn: str) -> set[int]:
    """Return the workers that run for a shop."""
    found = set()
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mine = "worker" in one.cmdline() and one.environ().get("SHOP_DSN") == dsn
            found |= {one.pid} if mine else set()
    return found


def test_a_shop_that_cannot_serve_leaves_no_worker(
    shops: dict[str, Shop], tmp_path: Path
) -> None:
    dsn = shops["django"].dsn
    before = workers(dsn)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # nothing answers there, and yet it is taken
        second = start("django", tmp_path, dsn, port=other.getsockname()[1])
        second.process.wait(60)

    assert "port is already in use" in second.log.read_text()
    assert len(before) == 1
    assert workers(dsn) == before


def test_a_new_product_is_recommended_within_seconds(shop: Shop) -> None:
    columns = (
        "category_id, name, brand, colour, swatch, style, description, price,"
        " in_stock, created_at, picture"
    )
    ((pk,),) = shop.rows(
        f"insert into {{}}product ({columns}) select {columns} from {{}}product"
        " where id = 8 returning id"
    )
    try:
        deadline = time.monotonic() + 20
        while not (similar := rail(Visitor(shop).get(f"/product/{pk}/"), "similar")):
            assert time.monotonic() < deadline, shop.log.read_text()[-3000:]
            time.sleep(0.2)
        assert 8 in similar  # its twin
    finally:
        shop.rows("delete from {}product where id = %s", pk)


def test_only_staff_may_manage(shop: Shop) -> None:
    visitor = Visitor(shop)
    visitor.sign_in("ada")

    if shop.name == "django":
        assert 'type="password"' in visitor.get("/admin/")
    else:
        with pytest.raises(Refused, match=": 403 "):
            visitor.get("/admin/")


def test_pages_load_nothing_from_elsewhere(shop: Shop) -> None:
    visitor = Visitor(shop)
    for path in ("/", "/product/1/", "/department/ride/", "/login/"):
        page = visitor.get(path)
        assert not re.search(r'(src|href|action)="(https?:)?//', page)
        assert "<script" not in page


def test_the_model_is_watched_and_serves(shop: Shop) -> None:
    with connect(shop.dsn) as conn:
        rows = conn.execute(
            "select state, percent, coverage_percent from recsys.version_status"
        ).fetchall()

    assert [(state, int(share)) for state, share, _ in rows] == [("serving", 100)]
    assert rows[0][2] == 100
