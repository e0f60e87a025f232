"""Users who came after a version's data: first visits and sessions, by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
import world

from recsys import _db, newcomers
from recsys.config import from_mapping
from recsys.errors import SourceError

CUT = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture
def line(dsn: str) -> str:
    """Everybody is recommended 30, 29, ... 1, less what the session had.

    User 1 is known. User 2 came later and chose 25 and then 1, twice; user 3 chose 29.
    """
    with _db.connect(dsn) as conn:
        conn.execute("create table product (id bigint primary key)")
        conn.execute("insert into product select generate_series(1, 30)")
        conn.execute(
            "create table event (customer_id bigint, product_id bigint, kind text,"
            " created_at timestamptz)"
        )
        conn.execute(
            "insert into event select 1, g, 'view', '2026-01-20'"
            " from generate_series(1, 30) as g"
        )
        conn.execute(
            "insert into event values (1, 5, 'view', '2026-02-02'),"
            " (2, 25, 'view', '2026-02-03'), (2, 1, 'view', '2026-02-04'),"
            " (2, 1, 'view', '2026-02-05'), (3, 29, 'view', '2026-02-03'),"
            " (4, 29, 'glance', '2026-02-03')"
        )
        conn.commit()
    data = world.toml()
    data["model"]["shop"]["items"]["sql"] = "select id as item_id from product"
    data["model"]["shop"]["interactions"]["weights"] = {"view": 1, "glance": 0}
    world.add_version(dsn, from_mapping(data).model("shop"))
    with _db.connect(dsn) as conn:
        # The unit part is the same for all: popularity alone decides the order.
        conn.execute(
            "update recsys.item_vector_shop_1 set embedding = ('[1' || repeat(',0', 7)"
            " || ',' || item_id || ']')::halfvec"
        )
    return dsn


def test_first_visits_and_sessions_are_measured_apart(line: str) -> None:
    with _db.connect(line) as conn:
        found = newcomers.measure(conn, "shop", 1, CUT)

    assert (found.users, found.hits) == (2, 3)
    # Place 6 of 25 and place 2 of 29; 1 is behind the twentieth.
    ideal = 1 + 1 / math.log2(3)
    gain = (1 / math.log2(7) / ideal + 1 / math.log2(3)) / 2
    visit = found.metrics["first_visit"]
    assert visit["recall@20"] == pytest.approx(0.75)
    assert visit["ndcg@20"] == pytest.approx(gain)
    assert visit["hr@10"] == 1.0
    # The session of user 2 had 25 and goes on with 1.
    assert found.metrics["session"]["recall@20"] == 0.0
    assert set(found.metrics) == {
        "first_visit",
        "first_visit: popular_30d",
        "session",
        "session: popular_30d",
    }


@pytest.mark.parametrize(
    ("cut", "says", "hint"),
    [
        (datetime(2026, 2, 4, tzinfo=UTC), "who chose an item", "without --new-users"),
        (datetime(2027, 1, 1, tzinfo=UTC), "the last interaction is of 2026-02-05",
         "earlier --after"),
    ],
)  # fmt: skip
def test_without_new_users_it_says_so(
    line: str, cut: datetime, says: str, hint: str
) -> None:
    with (
        _db.connect(line) as conn,
        pytest.raises(SourceError, match=f"no user came from {cut:%F}") as caught,
    ):
        newcomers.measure(conn, "shop", 1, cut)

    assert says in str(caught.value)
    assert hint in caught.value.hint
