"""The admin shows the recsys views, and switches versions with permission only."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from world import Shop

from recsys import _db
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
    done = _act(
        client, "promote", confirmed="yes", percent="10", reason="try", force="on"
    )

    assert "It takes effect with the next request" in asked.content.decode()
    assert before == [(1, 100.0)]
    assert "hop 2 serves 10 % of the users now" in done.content.decode()
    assert _serving(store) == [(1, 90.0), (2, 10.0)]


def test_the_audit_names_the_django_user(store: Shop) -> None:
    client = _client(store, superuser=True)

    _act(client, "promote", confirmed="yes", percent="10", reason="try", force="on")

    assert AuditEntry.objects.first().reason == "forced: try (Django user alice)"


def test_a_rollback_is_asked_for_and_then_done(store: Shop) -> None:
    client = _client(store, superuser=True)
    _act(client, "promote", confirmed="yes", percent="10", reason="try", force="on")

    asked = _act(client, "rollback")
    done = _act(client, "rollback", confirmed="yes", reason="no good")

    assert "Candidate 2 serves" in asked.content.decode()
    assert "version 1 serves everybody now" in done.content.decode()
    assert _serving(store) == [(1, 100.0)]


def test_what_the_rules_refuse_is_said_and_nothing_changes(store: Shop) -> None:
    client = _client(store, superuser=True)

    refused = _act(client, "promote", confirmed="yes", percent="10", reason="try")
    wrong = _act(client, "promote", confirmed="yes", percent="0", reason="try")

    assert "compare" in refused.content.decode()
    assert "errorlist" in wrong.content.decode()
    assert _serving(store) == [(1, 100.0)]


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
    _act(client, "promote", confirmed="yes", percent="100", reason="try", force="on")

    assert page.status_code == 200
    assert b"share of the users" not in page.content
    assert _serving(store) == [(1, 100.0)]


def test_a_permission_allows_one_action_and_no_other(store: Shop) -> None:
    client = _client(store, "view_version", "promote_version")

    page = client.get("/admin/recsys/version/").content.decode()

    assert "Let the version serve a share of the users" in page
    assert "Take the users back" not in page
