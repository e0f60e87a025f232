"""The table recsys.interaction as a source: who may read it, and how fast."""

from __future__ import annotations

import json
import re
from pathlib import Path

import world
from world import Shop

from recsys import Recommender, _db
from recsys.config import from_mapping

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
SOURCE = (
    "select user_id::bigint, item_id::bigint, occurred_at, kind"
    " from recsys.interaction where model = 'shop'"
)


def test_the_app_serves_a_model_over_what_it_recorded(shop: Shop) -> None:
    data = world.toml()
    data["model"]["shop"]["interactions"]["sql"] = SOURCE
    model = from_mapping(data).model("shop")
    world.add_version(shop.dsn, model, promote=True)
    with _db.connect(shop.dsn) as conn:
        conn.execute("grant select on product to recsys_app")

    with Recommender("shop", dsn=world.as_role(shop.dsn, "recsys_app")) as app:
        assert 42 in app.recommend(7, k=200).ids
        app.record(7, 42, "view")
        assert 42 not in app.recommend(7, k=199).ids


def test_the_documented_index_is_used(db: _db.Connection) -> None:
    text = PAGE.read_text("utf-8")
    assert "from recsys.interaction where model = 'shop'" in text
    found = re.search(r"^create index shop_interaction .*;$", text, re.M)
    assert found
    db.execute(
        "insert into recsys.interaction (model, user_id, item_id, kind)"
        " select 'shop', n % 2000, n, 'view' from generate_series(1, 20000) as n"
    )
    db.execute(found[0].encode())
    db.execute("analyze recsys.interaction")

    row = db.execute(
        f"explain (format json) select item_id from ({SOURCE}) as source"
        " where source.user_id = 7 order by source.occurred_at desc limit 100".encode()
    ).fetchone()

    assert row
    plan = json.dumps(row[0])
    assert "shop_interaction" in plan
    assert "Seq Scan" not in plan
