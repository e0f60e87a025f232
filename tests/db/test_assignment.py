"""Who is answered by what: buckets in SQL and Python, stickiness, independence."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import Shop

from recsys import Recommender, _db, assignment, retrieval, rollout
from recsys.assignment import Arm, Experiment, Plan, bucket
from recsys.errors import ConfigError

GOLDEN = [
    ("", "7", 6079),
    ("a1b2c3d4", "7", 8394),
    ("a1b2c3d4", "8", 4068),
    ("a1b2c3d4:traffic", "8", 9575),
    ("salt", "ünïcödé 🍏", 2847),
    ("salt", "6f1f4a1e-3c1f-4c3b-9b0a-1d2e3f405162", 5472),
    ("salt", "", 9041),
]
"""Written down once: another hash would move every user of a running rollout."""


def force(conn: _db.Connection, number: int, percent: float = 100) -> None:
    rollout.promote(conn, "shop", number, percent=percent, reason="test", force=True)


@pytest.mark.parametrize(("salt", "unit", "expected"), GOLDEN)
def test_the_bucket_of_a_unit_never_changes(
    db: _db.Connection, salt: str, unit: str, expected: int
) -> None:
    row = db.execute("select recsys._bucket(%s, %s)", (salt, unit)).fetchone()

    assert (bucket(salt, unit), row) == (expected, (expected,))


def test_sql_and_python_agree_on_any_text(db: _db.Connection) -> None:
    text = st.text(
        st.characters(blacklist_characters="\0", blacklist_categories=("Cs",))
    )

    @settings(max_examples=200, deadline=None)
    @given(text, text)
    def check(salt: str, unit: str) -> None:
        row = db.execute("select recsys._bucket(%s, %s)", (salt, unit)).fetchone()
        assert row == (bucket(salt, unit),)

    check()


def test_buckets_are_even() -> None:
    counts = Counter(bucket("salt", str(user)) // 1000 for user in range(20_000))

    expected = 2000
    chi2 = sum((counts[i] - expected) ** 2 / expected for i in range(10))
    assert chi2 < 27.9  # 9 degrees of freedom, p = 0.001


def test_a_growing_percentage_moves_only_the_users_it_must() -> None:
    before: set[int] = set()
    for percent in (1, 5, 25, 33.33, 50, 99.99, 100):
        plan = Plan(1, base=1, candidate=2, percent=percent, salt="s")
        answered = [plan.assign(str(user)) for user in range(5_000)]
        now = {user for user, a in enumerate(answered) if a and a.number == 2}

        assert before <= now
        assert abs(len(now) / 50 - percent) < 2.5
        before = now


def test_every_share_has_as_many_buckets_in_python_as_in_sql(
    db: _db.Connection,
) -> None:
    """0.07 * 100 is not 7 in floating point."""
    rows = db.execute(
        "select g, (g / 100.0)::numeric(5, 2) * 100 from generate_series(1, 10000) as g"
    ).fetchall()

    assert all(share == n == assignment._buckets(n / 100) for n, share in rows)


def test_another_salt_is_another_half() -> None:
    one = Plan(1, 1, 2, 50, "one")
    two = Plan(1, 1, 2, 50, "two")
    pairs = Counter(
        (one.assign(str(u)), two.assign(str(u))) for u in range(20_000)
    ).values()

    assert len(pairs) == 4
    assert all(abs(n - 5_000) < 250 for n in pairs)


def test_an_experiment_comes_before_the_rollout_and_traffic_has_its_own_salt() -> None:
    arms = [Arm("a", 1, 50), Arm("b", 2, 50)]
    plan = Plan(1, 3, None, 0, "", Experiment("exp", "salt", 20, arms))
    found = Counter(
        (a.number, a.experiment, a.arm)
        for user in range(20_000)
        if (a := plan.assign(str(user)))
    )

    assert set(found) == {(1, "exp", "a"), (2, "exp", "b"), (3, None, None)}
    assert abs(found[1, "exp", "a"] - 2_000) < 200
    assert abs(found[2, "exp", "b"] - 2_000) < 200
    assert plan.assign(None) == assignment.Assignment(3)


def test_sql_assigns_as_python_does(shop: Shop) -> None:
    units = [str(n) for n in range(300)] + [str(uuid4()), "é", "a b"]
    with _db.connect(shop.dsn) as conn:
        force(conn, 2, 33.3)
        conn.execute(
            "insert into recsys.experiment (name, model, traffic, primary_metric)"
            " values ('exp', 'shop', 40, 'ctr')"
        )
        conn.execute(
            "insert into recsys.experiment_arm (experiment, arm, number, share,"
            " is_control) values ('exp', 'b', 2, 33.33, false),"
            " ('exp', 'a', 1, 66.67, true)"
        )
        conn.execute(
            "update recsys.experiment set state = 'running', started_at = now()"
        )
        plan = retrieval.plan(conn, "shop")
        in_sql = [
            conn.execute("select recsys._assign('shop', %s)", (unit,)).fetchone()
            for unit in units
        ]

    assert plan is not None
    in_python = [plan.assign(unit) for unit in units]
    assert [row and row[0] for row in in_sql] == [a and a.number for a in in_python]
    assert {a.arm for a in in_python if a} == {None, "a", "b"}


def test_each_user_is_answered_by_the_assigned_version(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        force(conn, 2, 50)
        conn.commit()
        plan = retrieval.plan(conn, "shop")
        assert plan is not None
        with Recommender("shop", dsn=shop.dsn) as recommender:
            versions = {u: recommender.recommend(u, k=5).version for u in range(1, 31)}
            sessions = {
                unit: recommender.recommend(history=[3], unit=unit, k=5).version
                for unit in map(str, range(30))
            }
            nobody = recommender.recommend(history=[3], k=5).version
            similar = recommender.similar_items(3, unit="7", k=5).version
        in_sql: dict[int, Any] = {}
        for user in (1, 2, 3, 4, 5):
            in_sql[user] = conn.execute(
                "select number from recsys._serving('shop', %s)", (str(user),)
            ).fetchone()

    assert set(versions.values()) == {1, 2}
    for unit, version in [*versions.items(), *sessions.items(), (7, similar)]:
        assigned = plan.assign(str(unit))
        assert assigned is not None
        assert version == assigned.number
    assert nobody == 1
    assert {u: row[0] for u, row in in_sql.items()} == {u: versions[u] for u in in_sql}


def test_sql_recommends_by_the_users_own_version(shop: Shop) -> None:
    def lists(conn: _db.Connection) -> dict[int, list[str]]:
        return {
            user: [
                item
                for item, _ in conn.execute(
                    "select * from recsys.recommend('shop', %s, 5)", (user,)
                )
            ]
            for user in range(1, 21)
        }

    with _db.connect(shop.dsn) as conn:
        first = lists(conn)
        force(conn, 2)
        second = lists(conn)
        force(conn, 1)
        force(conn, 2, 50)
        mixed = lists(conn)
        plan = retrieval.plan(conn, "shop")

    assert plan is not None
    for user, found in mixed.items():
        assigned = plan.assign(str(user))
        assert found == (second if assigned and assigned.number == 2 else first)[user]
    assert mixed not in (first, second)


def test_sql_knows_a_user_by_any_spelling(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        force(conn, 2, 50)
        for user in range(1, 31):
            plain, padded = (
                conn.execute(
                    "select * from recsys.recommend('shop', %s::text, 5)", (text,)
                ).fetchall()
                for text in (str(user), f"0{user}")
            )
            assert plain == padded


@pytest.mark.parametrize("unit", ["\ud800", "a\nb", 7])
def test_a_unit_that_is_no_printable_text_is_refused(shop: Shop, unit: Any) -> None:
    with (
        Recommender("shop", dsn=shop.dsn) as recommender,
        pytest.raises(ConfigError, match="unit must be"),
    ):
        recommender.recommend(history=[3], unit=unit)
