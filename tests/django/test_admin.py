"""The admin shows the recsys views, and switches versions with permission only."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from browser import chromium
from django.contrib.auth.models import Permission, User
from django.test import Client
from django_project import Changes
from selenium.webdriver.common.by import By
from world import Shop

from recsys import _db, rollout
from recsys.django import _panels
from recsys.django.models import AuditEntry, Rollout, Version, VersionMetric


def _client(store: Shop, *permissions: str, superuser: bool = False) -> Client:
    user = User.objects.create_user(
        "alice", password="x", is_staff=True, is_superuser=superuser
    )
    for name in permissions:
        user.user_permissions.add(Permission.objects.get(codename=name))
    client = Client()
    client.force_login(user)
    return client


def _act(client: Client, action: str, key: str = "shop:2", **values: object):
    return client.post(
        "/admin/recsys/version/",
        {"action": action, "_selected_action": [key], **values},
        follow=True,
    )


def _confirm(client: Client, action: str, key: str = "shop:2", **values: object):
    """Send the form of the page that asks, as a browser does."""
    asked = _act(client, action, key)
    seen = re.search(r'name="seen" value="(.*?)"', asked.content.decode())
    sent = {"confirmed": "yes", "reason": "try", "seen": seen[1] if seen else ""}
    return _act(client, action, key, **sent | values)


def _serving(store: Shop) -> list[tuple[int, float]]:
    with _db.connect(store.dsn) as conn:
        return conn.execute(
            "select number, percent::float8 from recsys.rollout order by 1"
        ).fetchall()


def test_rows_of_a_view_are_found_by_the_key_of_their_columns(store: Shop) -> None:
    version = Version.objects.get(pk="shop:2")

    assert (version.model, version.number, version.pk) == ("shop", 2, "shop:2")
    keys = Version.objects.order_by("-pk").values_list("pk", flat=True)
    assert list(keys) == ["shop:2", "shop:1"]
    assert Version.objects.filter(pk__in=["shop:1", "x:9"]).count() == 1
    assert VersionMetric.objects.get(pk="shop:1:validation:model:ndcg@20").value == 0.3
    assert Rollout.objects.get().percent == 100


def test_a_row_of_a_view_cannot_be_saved_or_deleted(store: Shop) -> None:
    version = Version.objects.first()

    with pytest.raises(TypeError, match="read-only"):
        version.save()
    with pytest.raises(TypeError, match="read-only"):
        version.delete()


@pytest.mark.parametrize(
    "path",
    [
        "version/",
        "version/shop_3A1/change/",
        "rollout/",
        "rollout/shop_3A1/change/",
        "backlog/",
        "backlog/shop/change/",
        "experiment/",
        "auditentry/",
        "version/?state__exact=ready&o=4.2",
    ],
)
def test_every_page_of_the_admin_shows(store: Shop, path: str) -> None:
    client = _client(store, superuser=True)

    response = client.get(f"/admin/recsys/{path}")

    assert response.status_code == 200
    assert b"errornote" not in response.content


def test_a_version_shows_its_metrics_beside_the_floors(store: Shop) -> None:
    client = _client(store, superuser=True)

    response = client.get("/admin/recsys/version/shop_3A1/change/")

    assert b"ndcg@20" in response.content
    assert b"0.3000" in response.content


def test_a_promotion_is_asked_for_and_then_done(store: Shop) -> None:
    client = _client(store, superuser=True)

    asked = _act(client, "promote")
    before = _serving(store)
    done = _confirm(client, "promote", percent="10", force="on")

    assert "It takes effect with the next request" in asked.content.decode()
    assert before == [(1, 100.0)]
    assert "hop 2 serves 10 % of the users now" in done.content.decode()
    assert _serving(store) == [(1, 90.0), (2, 10.0)]


def test_the_audit_names_the_django_user(store: Shop) -> None:
    client = _client(store, superuser=True)

    _confirm(client, "promote", percent="10", force="on")

    assert AuditEntry.objects.first().reason == "forced: try (Django user alice)"


def test_a_rollback_is_asked_for_and_then_done(store: Shop) -> None:
    client = _client(store, superuser=True)
    _confirm(client, "promote", percent="10", force="on")

    asked = _act(client, "rollback")
    done = _confirm(client, "rollback", reason="no good")

    page = asked.content.decode()
    assert "version 1 90 %, version 2 10 % as the candidate" in page
    assert "Then version 1 serves everybody." in page
    assert "version 1 serves everybody now" in done.content.decode()
    assert _serving(store) == [(1, 100.0)]


def test_what_the_rules_refuse_is_said_and_nothing_changes(store: Shop) -> None:
    client = _client(store, superuser=True)

    refused = _confirm(client, "promote", percent="10")
    wrong = _confirm(client, "promote", percent="0")

    assert "compare" in refused.content.decode()
    assert "errorlist" in wrong.content.decode()
    assert _serving(store) == [(1, 100.0)]


def test_a_refusal_speaks_of_the_form_and_of_manage_py(store: Shop) -> None:
    client = _client(store, superuser=True)

    refused = _confirm(client, "promote", percent="10").content.decode()

    assert "manage.py recsys compare shop 2" in refused
    assert "with “Without a passed comparison” ticked" in refused
    assert "--force" not in refused


def test_nobody_takes_the_users_back_from_the_base_of_a_rollout(store: Shop) -> None:
    client = _client(store, superuser=True)
    _confirm(client, "promote", percent="10", force="on")

    asked = _act(client, "rollback", "shop:1").content.decode()
    forged = {"confirmed": "yes", "reason": "x"}
    forged["seen"] = "version 1 90 %, version 2 10 % as the candidate"
    _act(client, "rollback", "shop:1", **forged)

    assert "is the base of a rollout. Choose shop 2, the candidate" in asked
    assert _serving(store) == [(1, 90.0), (2, 10.0)]


def test_a_rollback_from_the_base_says_who_serves_then(store: Shop) -> None:
    client = _client(store, superuser=True)
    first = _act(client, "rollback", "shop:1").content.decode()
    _confirm(client, "promote", percent="100", force="on")

    asked = _act(client, "rollback", "shop:2").content.decode()
    _confirm(client, "rollback", "shop:2")

    assert "No version that served before shop 1 could serve again" in first
    assert "Then version 1 serves everybody." in asked
    assert _serving(store) == [(1, 100.0)]


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_a_form_is_refused_when_another_switch_came_first(
    store: Shop, action: str
) -> None:
    client = _client(store, superuser=True)
    _confirm(client, "promote", percent="10", force="on")
    seen = "version 1 90 %, version 2 10 % as the candidate"
    with _db.connect(store.dsn) as conn:
        rollout.promote(conn, "shop", 2, percent=20, reason="elsewhere")

    sent = {"confirmed": "yes", "reason": "x", "percent": "100", "seen": seen}
    late = _act(client, action, **sent).content.decode()
    _confirm(client, action, percent="100")

    assert "Another switch came first: now version 1 80 %, version 2 20 %" in late
    assert _serving(store) == [(2 if action == "promote" else 1, 100.0)]


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_missing_rights_are_said_with_the_grant(store: Shop, action: str) -> None:
    client = _client(store, superuser=True)
    _confirm(client, "promote", percent="100", force="on")
    with _db.connect(store.dsn) as conn:
        conn.execute("grant usage on schema public to recsys_analyst")
        conn.execute("grant all on all tables in schema public to recsys_analyst")
        conn.execute("grant all on all sequences in schema public to recsys_analyst")
        conn.execute("grant select on recsys.rollout_status to recsys_analyst")
    with as_role("default", "recsys_analyst"):
        said = _confirm(
            client, action, percent="10", seen="version 2 100 %"
        ).content.decode()

    assert "The database role recsys_analyst may not do that: permission" in said
    assert "grant recsys_trainer to recsys_analyst;" in said
    assert _serving(store) == [(2, 100.0)]


def test_the_list_of_versions_asks_once_whatever_their_number(store: Shop) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client = _client(store, superuser=True)
    with CaptureQueriesContext(
        connection,
    ) as asked:
        page = client.get("/admin/recsys/version/").content.decode()

    about = [one["sql"] for one in asked if "version_metric" in one["sql"]]
    assert len(about) == 1
    assert page.count("0.300") == 2


def test_a_finished_version_shows_no_progress_and_no_crosses(store: Shop) -> None:
    client = _client(store, superuser=True)

    page = client.get("/admin/recsys/version/shop_3A1/change/").content.decode()
    with _db.connect(store.dsn) as conn:
        conn.execute(
            "update recsys.model_version set state = 'building' where number = 2"
        )
    building = client.get("/admin/recsys/version/shop_3A2/change/").content.decode()

    assert "Items and index" in page
    assert "icon-no" not in page
    assert "In the making" not in page
    assert "In the making" in building


def test_a_version_links_to_what_the_audit_has_of_it(store: Shop) -> None:
    client = _client(store, superuser=True)
    _confirm(client, "promote", percent="10", force="on")

    page = client.get("/admin/recsys/version/shop_3A2/change/").content.decode()
    (link,) = re.findall(r'href="([^"]*)" class="historylink"', page)
    audit = client.get(html.unescape(link)).content.decode()

    assert "forced: try" in audit
    assert "forced: test" not in audit  # of version 1


def test_the_audit_says_from_what_to_what(store: Shop) -> None:
    client = _client(store, superuser=True)
    _confirm(client, "promote", percent="10", force="on")

    page = client.get("/admin/recsys/auditentry/").content.decode()

    assert "1: 100 % → 1: 90 %, 2: 10 %" in page.replace("\u00a0", " ")
    assert "building → ready" in page
    assert "audit entries" in page


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        ("ready", "ready"),
        (True, "on"),
        ({}, "nothing serves"),
        ({"1": 90.0, "2": 10.0}, "1: 90 %, 2: 10 %"),
        ({"state": "ready", "model": "shop"}, "ready"),
        ({"model": "shop", "steps": [1.0, 50.0]}, "steps 1, 50 %"),
        ({"alpha": 0.05}, '{"alpha": 0.05}'),
    ],
)
def test_a_transition_is_said_in_words(value: object, shown: str) -> None:
    assert _panels.shown(value) == shown


def test_a_key_is_quoted_by_the_name_that_later_djangos_give() -> None:
    from django.db import connection
    from django.db.models.sql.compiler import SQLCompiler

    class Later(SQLCompiler):  # as in Django 6.1
        quote_name = SQLCompiler.quote_name_unless_alias

        def quote_name_unless_alias(self, name: str) -> str:
            raise DeprecationWarning("quote_name_unless_alias is deprecated")

    query = Version.objects.filter(pk="shop:2").query
    sql, _ = Later(query, connection, "default").compile(Version._meta.pk.cached_col)

    view = '"recsys"."version_status"'
    assert sql == f"""({view}."model" || ':' || {view}."number")"""


def test_the_pages_fit_1280_pixels(store: Shop, settings_: Changes) -> None:
    client = _client(store, superuser=True)
    _confirm(client, "promote", percent="12.5", force="on")
    settings_.set(STATIC_URL="/static/", ALLOWED_HOSTS=["127.0.0.1"])

    with serving() as url, chromium(1280, 900) as page:
        page.get(f"{url}/admin/login/")
        name, value = "sessionid", client.cookies["sessionid"].value
        page.add_cookie({"name": name, "value": value})
        for name in ("version", "rollout", "backlog", "experiment", "auditentry"):
            page.get(f"{url}/admin/recsys/{name}/")
            wide = page.execute_script(TOO_WIDE, name != "backlog")
            assert wide <= 0, f"{name} is cut off by {wide} px"
            assert len(page.find_elements(By.ID, "nav-sidebar")) == 1
        page.get(f"{url}/admin/recsys/version/")
        page.find_element(By.NAME, "_selected_action").click()
        option = "select[name=action] option[value=promote]"
        page.find_element(By.CSS_SELECTOR, option).click()
        page.find_element(By.NAME, "index").click()
        field = page.find_element(By.NAME, "percent").rect["x"]
        help_ = page.find_element(By.CSS_SELECTOR, ".field-percent .help")
        text = page.execute_script(TEXT_AT, help_)
        assert abs(text - field) < 15


TOO_WIDE = """
    const results = document.querySelector("#changelist .results");
    const page = document.documentElement;
    // As beside filters, also while there is nothing to choose from.
    if (results && arguments[0]) results.style.maxWidth = "630px";
    return Math.max(results ? results.scrollWidth - results.clientWidth : 0,
                    page.scrollWidth - page.clientWidth);
"""
TEXT_AT = """
    const range = document.createRange();
    range.selectNodeContents(arguments[0]);
    const boxes = [...range.getClientRects()].filter(box => box.width);
    return Math.max(...boxes.map(box => box.left));
"""


@contextmanager
def as_role(alias: str, role: str) -> Iterator[None]:
    """Let Django be another role, as with OPTIONS["assume_role"]."""
    from django.db import connections

    options = connections[alias].settings_dict.setdefault("OPTIONS", {})
    connections[alias].close()
    options["assume_role"] = role
    try:
        yield
    finally:
        connections[alias].close()
        del options["assume_role"]


@contextmanager
def serving() -> Iterator[str]:
    """The project and its static files on a port, one request at a time."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.wsgi import get_wsgi_application

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None: ...

    application = StaticFilesHandler(get_wsgi_application())
    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_one_version_at_a_time(store: Shop) -> None:
    client = _client(store, superuser=True)

    several = client.post(
        "/admin/recsys/version/",
        {"action": "promote", "_selected_action": ["shop:1", "shop:2"]},
        follow=True,
    )
    idle = _act(client, "rollback")

    assert "Choose one version" in several.content.decode()
    assert "serves nobody" in idle.content.decode()


def test_without_the_permission_there_is_no_action(store: Shop) -> None:
    client = _client(store, "view_version")

    page = client.get("/admin/recsys/version/")
    _confirm(client, "promote", percent="100", force="on")

    assert page.status_code == 200
    assert b"share of the users" not in page.content
    assert _serving(store) == [(1, 100.0)]


def test_a_permission_allows_one_action_and_no_other(store: Shop) -> None:
    client = _client(store, "view_version", "promote_version")

    page = client.get("/admin/recsys/version/").content.decode()

    assert "Let the version serve a share of the users" in page
    assert "Take the users back" not in page
