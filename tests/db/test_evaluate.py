"""Offline evaluation: the protocol on an example small enough to do by hand."""

from __future__ import annotations

import gzip
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import world
from world import Shop

from recsys import _db, _exact, evaluate, versions
from recsys.compare import compare
from recsys.config import from_mapping
from recsys.errors import ConfigError, SourceError, UnknownVersion, VersionStateError
from recsys.evaluate import Holdout

CUT = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture
def line(dsn: str) -> str:
    """Items 1..6 on a line: everybody is recommended 6, 5, 4, 3, 2, 1, less the seen.

    Before the cut-off: user 1 had 6; user 2 had 5 and 4; user 3 had 4, long ago.
    After it: user 1 took 5, 1 and again 6; user 2 took 3; user 4 (new) took 2; and
    somebody only looked (weight 0) at 3.
    """
    with _db.connect(dsn) as conn:
        conn.execute("create table product (id bigint primary key)")
        conn.execute("insert into product select generate_series(1, 6)")
        conn.execute(
            "create table event (customer_id bigint, product_id bigint, kind text,"
            " created_at timestamptz)"
        )
        conn.execute(
            "insert into event values"
            " (1, 6, 'view', '2026-01-20'), (2, 5, 'view', '2026-01-20'),"
            " (2, 4, 'view', '2026-01-21'), (3, 4, 'view', '2025-06-01'),"
            " (9, 1, 'view', '2025-06-01'), (9, 2, 'view', '2025-06-01'),"
            " (9, 3, 'view', '2025-06-01'), (8, 4, 'view', '2025-06-02'),"
            " (1, 5, 'view', '2026-02-02'), (1, 1, 'view', '2026-02-03'),"
            " (1, 6, 'view', '2026-02-03'), (2, 3, 'view', '2026-02-03'),"
            " (4, 2, 'view', '2026-02-03'), (3, 3, 'glance', '2026-02-03')"
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


def test_segments_are_measured_through_the_served_path(line: str) -> None:
    with _db.connect(line) as conn:
        holdout = evaluate.after(conn, "shop", 1, CUT)
        plain = evaluate.evaluate(conn, "shop", 1, holdout, k=2)
        found = evaluate.evaluate(conn, "shop", 1, holdout, k=2, segments=True)
        evaluate.store(conn, found, "march")
        stored = conn.execute(
            "select slice, value from recsys.version_metric where metric = 'recall@2'"
            " and method = 'model' order by slice"
        ).fetchall()

    assert plain.segments == {}
    # Item 4 has three of the eight pairs before the cut-off, then comes 1 by id: they
    # are the head. User 1 wanted 1 and was not shown it.
    head = found.segments["head items"]["model"]
    assert (head["recall@2"], head["users"]) == (0.0, 1.0)
    # Nobody had five items.
    assert found.segments["new users"]["model"] == {
        **found.metrics["model"],
        "users": 2.0,
    }
    lists = found.segments["lists"]["model"]
    assert lists["coverage@2"] == pytest.approx(4 / 6)  # 5, 4 and 6, 3
    assert ("march: new users", 0.75) in stored
    assert ("march", 0.75) in stored


def test_hits_are_new_pairs_of_known_users_and_items(line: str) -> None:
    with _db.connect(line) as conn:
        holdout = evaluate.after(conn, "shop", 1, CUT)

    assert holdout.relevant == {1: {5, 1}, 2: {3}}
    assert holdout.before == CUT
    assert holdout.kinds == {"view": {1: {5, 1}, 2: {3}}}


def test_kinds_are_measured_apart(line: str) -> None:
    bought = {"view": {1: {5}}, "buy": {1: {1}, 2: {3, 99}}}
    holdout = evaluate.Holdout({1: {5, 1}, 2: {3}}, CUT, bought)
    with _db.connect(line) as conn:
        found = evaluate.evaluate(conn, "shop", 1, holdout, k=2, segments=True)

    viewed, chosen = (found.segments[f"kind {k}"]["model"] for k in ("view", "buy"))
    # The lists are 5, 4 and 6, 3: what user 1 bought is in neither.
    assert (viewed["recall@2"], viewed["users"]) == (1.0, 1.0)
    assert (chosen["recall@2"], chosen["users"]) == (0.5, 2.0)


def test_the_metrics_are_those_computed_by_hand(line: str) -> None:
    with _db.connect(line) as conn:
        holdout = evaluate.after(conn, "shop", 1, CUT)
        found = evaluate.evaluate(conn, "shop", 1, holdout, k=2, exact=True)

    # User 1 is shown 5, 4 (of 5, 4, 3, 2, 1): one of two hits, in the first place.
    # User 2 is shown 6, 3: the hit is in the second place.
    ndcg = (1 / (1 + 1 / math.log2(3)) + 1 / math.log2(3)) / 2
    expected = {"recall@2": 0.75, "ndcg@2": ndcg, "hr@10": 1.0}
    assert found.metrics["model"] == pytest.approx(expected)
    assert found.metrics["exact"] == pytest.approx(expected)
    assert (found.users, found.hits, found.k) == (2, 3, 2)
    # All time, before the cut-off: 4 three times, then 1, 2, 3, 5, 6 by id.
    # User 1 is shown 4, 1: hit in second place; user 2 is shown 1, 2: none.
    first = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert found.metrics["most_popular"] == pytest.approx(
        {"recall@2": 0.25, "ndcg@2": first / 2, "hr@10": 1.0}
    )
    # In the last 30 days: 4, 5, 6 once each. User 1: 4, 5; user 2: 6 only.
    assert found.metrics["popular_30d"] == pytest.approx(
        {"recall@2": 0.25, "ndcg@2": first / 2, "hr@10": 0.5}
    )


def test_the_past_ends_at_the_cut_off(line: str) -> None:
    with _db.connect(line) as conn:
        now = evaluate.evaluate(conn, "shop", 1, Holdout({1: {5}}), k=1)
        then = evaluate.evaluate(conn, "shop", 1, Holdout({1: {5}}, CUT), k=1)

    assert now.metrics["model"]["recall@1"] == 0
    assert then.metrics["model"]["recall@1"] == 1


def test_the_exact_scan_agrees_with_the_served_path(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        relevant = {user: {user, user + 1, user + 50} for user in range(1, 31)}
        found = evaluate.evaluate(conn, "shop", 1, Holdout(relevant), exact=True)

    assert found.metrics["model"] == pytest.approx(found.metrics["exact"], abs=1e-9)
    assert found.short == 0


def test_the_exact_scan_is_the_same_in_blocks(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_exact, "_ITEMS", 7)
    monkeypatch.setattr(_exact, "_USERS", 3)

    test_the_exact_scan_agrees_with_the_served_path(shop)


def test_the_exact_scan_reads_ids_and_vectors_in_one_statement(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that changes vectors meanwhile changes nothing in a scan under way."""
    merge, changed = _exact._merge, []

    def change_first(*args: Any) -> None:
        if changed:
            return merge(*args)
        changed.append(True)
        with _db.connect(shop.dsn) as other:
            other.execute(
                "update recsys.item_vector_shop_1 set embedding ="
                " (embedding::vector * array_fill(-1::real, array[9])::vector)::halfvec"
            )
        return merge(*args)

    monkeypatch.setattr(_exact, "_merge", change_first)
    test_the_exact_scan_is_the_same_in_blocks(shop, monkeypatch)


def test_an_unknown_user_counts_and_an_unknown_item_is_a_miss(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        wanted = {user: {1} for user in range(1, 8)} | {8: {10**6, 2}, 10**6: {3}}
        found = evaluate.evaluate(conn, "shop", 1, Holdout(wanted))
        alone = evaluate.evaluate(conn, "shop", 1, Holdout({7: {1}}))

    assert (found.users, found.hits) == (9, 10)
    assert found.strange == (
        "1 of 9 users did nothing before, so only features and popularity make their"
        " lists."
    )
    assert alone.strange == ""


def test_hits_that_no_list_can_find_are_counted(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        found = evaluate.evaluate(conn, "shop", 1, Holdout({7: {1, 10**6}, 8: {2}}))

    assert found.strange == (
        "no list can find 1 of 3 hits: version 1 does not have the items."
    )


def test_a_holdout_of_other_ids_is_an_error_and_no_zero(shop: Shop) -> None:
    with (
        _db.connect(shop.dsn) as conn,
        pytest.raises(SourceError, match=r"items of the holdout \(2\)") as items,
    ):
        evaluate.evaluate(conn, "shop", 1, Holdout({7: {10**6}, 8: {10**7}}))

    assert "item_id of items.sql" in items.value.hint


def test_users_without_a_past_are_measured_with_a_warning(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        found = evaluate.evaluate(conn, "shop", 1, Holdout({10**6: {1}}))

    assert (found.users, found.hits) == (1, 1)
    assert found.strange.startswith("1 of 1 user did nothing before")


@pytest.mark.parametrize("wrong", [{7: {2**70}}, {7: {"abc"}}, {2**70: {1}}])
def test_ids_of_another_type_are_refused(shop: Shop, wrong: Any) -> None:
    with _db.connect(shop.dsn) as conn:
        with pytest.raises(ConfigError, match=r"_id of the holdout must be bigint"):
            evaluate.evaluate(conn, "shop", 1, Holdout(wrong))
        with pytest.raises(ConfigError, match=r"_id of the holdout must be bigint"):
            compare(conn, "shop", 2, holdout=Holdout(wrong))


def test_stored_metrics_stand_beside_the_others(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        found = evaluate.evaluate(conn, "shop", 1, Holdout({7: {1}}))
        evaluate.store(conn, found, "march")
        rows = conn.execute(
            "select distinct method from recsys.version_metric where slice = 'march'"
        ).fetchall()

    assert {row[0] for row in rows} == {"model", "most_popular", "popular_30d"}


def test_what_cannot_be_evaluated_is_named(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        with pytest.raises(SourceError, match="nothing to evaluate") as empty:
            evaluate.evaluate(conn, "shop", 1, Holdout({7: set()}))
        assert empty.value.hint
        for k in (0, -1, 1001, 10**9):
            with pytest.raises(ConfigError, match="k must be"):
                evaluate.evaluate(conn, "shop", 1, Holdout({7: {1}}), k=k)
        with pytest.raises(UnknownVersion):
            evaluate.evaluate(conn, "shop", 9, Holdout({7: {1}}))
        conn.execute("update recsys.model_version set state='building' where number=2")
        with pytest.raises(VersionStateError, match="building"):
            evaluate.evaluate(conn, "shop", 2, Holdout({7: {1}}))


def test_after_needs_a_time(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        conn.execute(
            "update recsys.model_version set spec = spec || '{\"columns\": []}'"
        )
        with pytest.raises(ConfigError, match="occurred_at") as caught:
            evaluate.after(conn, "shop", 1, CUT)

    assert "--holdout" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,item_id\n7,1\n7,abc\n", "line 3: item_id must be bigint, got 'abc'"),
        ("user_id,item_id\n,1\n", "line 2: user_id"),
        ("user_id,item_id\n7\n", "line 2: item_id"),
        (f"user_id,item_id\n7,{2**63}\n", "line 2: item_id"),
        ("user,item\n7,1\n", "no column item_id, user_id"),
        ("", "no column"),
        ("user_id,item_id\n7,\xff\n".encode("latin-1"), "cannot read"),
        (b"\x1f\x8b broken", "cannot read|no column"),
        ('user_id,item_id\n"7,1\n' + "x" * 200_000, "line|cannot read"),
        ("user_id,item_id\n7,1\x00\n", "line|cannot read"),
    ],
)
def test_a_bad_line_of_a_holdout_is_named(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = tmp_path / "test.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(ConfigError, match=message):
        evaluate.from_csv(path, world.shop_config())


def test_a_holdout_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        evaluate.from_csv(tmp_path / "no.csv", world.shop_config())
    (tmp_path / "bad.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match="cannot read"):
        evaluate.from_csv(tmp_path / "bad.csv.gz", world.shop_config())
    cut = gzip.compress(b"user_id,item_id\n" + b"7,1\n" * 10_000)[:40]
    (tmp_path / "cut.csv.gz").write_bytes(cut)
    with pytest.raises(ConfigError, match="cannot read"):
        evaluate.from_csv(tmp_path / "cut.csv.gz", world.shop_config())


def test_a_holdout_is_read_from_plain_and_gzip_files(tmp_path: Path) -> None:
    text = "\ufeffitem_id,user_id,note\n1,7,x\n2,7,\n1,8,\n"
    for name, content in (
        ("a.csv", text.encode()),
        ("a.csv.gz", gzip.compress(text.encode())),
    ):
        (tmp_path / name).write_bytes(content)
        found = evaluate.from_csv(tmp_path / name, world.shop_config())
        assert found.relevant == {7: {1, 2}, 8: {1}}
        assert found.before is None


def test_the_serving_version_is_not_touched_by_an_evaluation(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        evaluate.evaluate(conn, "shop", 2, Holdout({7: {1}}))
        assert versions.serving_number(conn, "shop") == 1
        assert np.isfinite(versions.get(conn, "shop", 2).ann_recall or 0)


def test_cold_counts_new_items_only_and_ranks_among_them(line: str) -> None:
    """Items 5 and 6 have no learned row any more; 7 came later and was chosen."""
    with _db.connect(line) as conn:
        conn.execute("insert into product values (7)")
        conn.execute(
            "insert into recsys.item_vector_shop_1 values"
            " (7, ('[1' || repeat(',0', 7) || ',0]')::halfvec)"
        )
        conn.execute("delete from recsys.id_embedding_shop_1 where item_id > 4")
        conn.execute("insert into event values (2, 7, 'view', '2026-02-04')")

        known = evaluate.after(conn, "shop", 1, CUT)
        new = evaluate.new_items(conn, versions.get(conn, "shop", 1))
        holdout = evaluate.after(conn, "shop", 1, CUT, cold=True)
        found = evaluate.evaluate(conn, "shop", 1, holdout, k=2, cold=True)

    assert known.relevant == {1: {5, 1}, 2: {3}}
    assert holdout.relevant == {1: {5, 1}, 2: {3, 7}}
    assert new == {5, 6, 7}
    # User 1 is shown 5, 4: the hit on 5; user 2 is shown 6, 3: 7 is not there.
    assert found.metrics["model"]["recall@2"] == 0.5
    # Among the new ones user 1 is shown 5, 7, and user 2 is shown 6, 7.
    among = found.metrics["model_among_new"]
    assert among["recall@2"] == 1
    assert among["ndcg@2"] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    chance = found.metrics["random_among_new"]
    assert chance["recall@2"] == pytest.approx(2 / 3)
    assert chance["ndcg@2"] == pytest.approx((1 + 1 / math.log2(3)) / 3)
    assert chance["hr@10"] == 1


def test_cold_says_whether_no_item_is_new_or_nobody_chose_one(line: str) -> None:
    with _db.connect(line) as conn:
        holdout = evaluate.after(conn, "shop", 1, CUT, cold=True)
        with pytest.raises(SourceError, match="no item is new to version 1") as known:
            evaluate.evaluate(conn, "shop", 1, holdout, cold=True)
        conn.execute("delete from recsys.id_embedding_shop_1 where item_id = 6")
        with pytest.raises(SourceError, match="chose the item that is new") as new:
            evaluate.evaluate(conn, "shop", 1, holdout, cold=True)

    assert "Leave out --cold" in known.value.hint
    assert f"{CUT:%F %T}" in str(new.value)
    assert "earlier --after" in new.value.hint


def test_a_time_after_everything_is_named(line: str) -> None:
    late = datetime(2099, 1, 1, tzinfo=UTC)
    with _db.connect(line) as conn:
        conn.execute("insert into event values (1, 5, 'view', 'infinity')")
        holdout = evaluate.after(conn, "shop", 1, late)
        with pytest.raises(SourceError, match="no hit from 2099-01-01") as caught:
            evaluate.evaluate(conn, "shop", 1, holdout)

    # The newest of all, and only looked at: it is in the data.
    assert "the last interaction is of 2026-02-03 00:00:00 UTC" in str(caught.value)
    assert "earlier --after" in caught.value.hint
