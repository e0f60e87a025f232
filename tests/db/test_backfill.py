"""Backfill: complete, resumable, and never a readable half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import world

from recsys import (
    Recommender,
    _completion,
    _db,
    _index,
    _load,
    artifacts,
    embedded,
    evaluate,
    rollout,
    schema,
    versions,
)
from recsys._completion import Completion
from recsys.backfill import BackfillReport, backfill
from recsys.config import IdType, ModelConfig, from_mapping
from recsys.errors import (
    ArtifactError,
    DatabaseUnavailable,
    RecsysError,
    SourceError,
    UnknownModel,
    UnknownVersion,
    VersionStateError,
)

SLOW = """
    import sys, time
    from recsys import _load, backfill
    from recsys._tower import ItemTower
    _load._CHUNK = 20
    encode = ItemTower.encode
    def slow(self, *args):
        print("chunk", flush=True)
        time.sleep(0.1)
        return encode(self, *args)
    ItemTower.encode = slow
    backfill.backfill(sys.argv[1], "shop", 1)
"""


def building(dsn: str, model: ModelConfig | None = None, **shop: Any) -> world.Learned:
    """Make a shop and version 1, not yet filled."""
    model = model or world.shop_config(features=True)
    world.fill_shop(dsn, model.item_id, **shop)
    return world.add_version(dsn, model, ready=False, cold=10)[1]


def start_slowly(dsn: str) -> subprocess.Popen[str]:
    """Run a backfill of 10 chunks in a process; return when it encodes the third."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLOW), dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for _ in range(3):
        assert process.stdout.readline() == "chunk\n", process.communicate()
    return process


def state(dsn: str, number: int = 1) -> versions.ModelVersion:
    with _db.connect(dsn) as conn:
        return versions.get(conn, "shop", number)


def count(dsn: str, table: str = "item_vector_shop_1") -> int:
    with _db.connect(dsn) as conn:
        row = conn.execute(f"select count(*) from recsys.{table}".encode()).fetchone()
    assert row
    return row[0]


def assert_unreadable(dsn: str) -> None:
    """Nothing answers from version 1, which is building or failed."""
    assert state(dsn).state in ("building", "failed")
    with _db.connect(dsn, autocommit=True) as conn:
        with pytest.raises(VersionStateError):
            rollout.promote(conn, "shop", 1, reason="test", force=True)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            conn.execute("select * from recsys.recommend('shop', 7)")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            conn.execute("select * from recsys.similar_items('shop', 7)")
        with pytest.raises(VersionStateError, match=r"is (building|failed), not ready"):
            evaluate.evaluate(conn, "shop", 1, evaluate.Holdout({7: {1}}))
    with Recommender("shop", dsn=dsn) as model, pytest.raises(VersionStateError):
        model.recommend(7)


def assert_complete(dsn: str, items: int = 200) -> None:
    version = state(dsn)
    assert (version.state, version.phase, version.error) == ("ready", "done", None)
    assert version.item_count == version.source_count == items
    assert count(dsn) == count(dsn, "item_embedding_shop_1") == items
    assert version.ef_search
    assert (version.ann_recall or 0) >= 0.95


# what is stored --------------------------------------------------------------------


def expected_vectors(
    conn: _db.Connection, learned: world.Learned
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Item vectors and history rows of every product, without the library's path."""
    rows = conn.execute(
        "select id, title, brand, price, extract(epoch from created_at)::float8"
        " from product"
    ).fetchall()
    place = {item: i for i, item in enumerate(learned.item_ids)}
    dim = learned.config.train.dim
    vectors, history = {}, {}
    import onnxruntime

    session = onnxruntime.InferenceSession(
        learned.item_tower, providers=["CPUExecutionProvider"]
    )
    from recsys.encoder import prepare

    for item, title, brand, price, created in rows:
        i = place.get(item)
        half = np.float16
        feeds: dict[str, Any] = {
            "id_served": np.zeros((1, dim), np.float32)
            if i is None
            else learned.served[i : i + 1].astype(half).astype(np.float32),
            "id_history": np.zeros((1, dim), np.float32)
            if i is None
            else learned.history[i : i + 1].astype(half).astype(np.float32),
            "bias": np.array([np.nan if i is None else learned.bias[i]], np.float32),
        }
        cells = {"title": title, "brand": brand, "price": price, "created_at": created}
        columns = {name: [value] for name, value in cells.items()}
        feeds.update(prepare("item", learned.config.items.features, columns, 1))
        vector, row = session.run(["vector", "history"], feeds)
        vectors[item], history[item] = vector[0], row[0]
    return vectors, history


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("id_type", ["bigint", "uuid", "text"])
def test_every_vector_is_what_a_recomputation_gives(
    dsn: str, id_type: IdType, features: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_load, "_CHUNK", 70)
    # Without features an item that nobody touched has no direction at all.
    cold = 10 if features else 0
    model = world.shop_config(id_type, features=features)
    world.fill_shop(dsn, id_type)
    _, learned = world.add_version(dsn, model, cold=cold)

    with _db.connect(dsn) as conn:
        vectors, history = expected_vectors(conn, learned)
        stored = world.stored_vectors(conn, "shop_1")
        rows = world.stored_vectors(conn, "shop_1", "item_embedding")

    assert stored.keys() == rows.keys() == vectors.keys()
    for item, vector in vectors.items():
        np.testing.assert_allclose(stored[item], vector, atol=1e-3, rtol=1e-3)
        np.testing.assert_allclose(rows[item], history[item], atol=2e-3, rtol=1e-3)


def test_the_report_tells_what_was_done(dsn: str) -> None:
    building(dsn)

    report = backfill(dsn, "shop")

    assert isinstance(report, BackfillReport)
    assert (report.number, report.loaded, report.item_count) == (1, 200, 200)
    assert report.ann_recall >= 0.95
    assert set(report.seconds) == {"load", "index", "verify"}
    assert_complete(dsn)


def test_a_second_run_completes_what_changed_and_keeps_serving(dsn: str) -> None:
    building(dsn)
    backfill(dsn, "shop")
    with _db.connect(dsn) as conn:
        rollout.promote(conn, "shop", 1, reason="test", force=True)
        conn.execute("delete from event; delete from product where id <= 3")
        world.add_products(conn, "bigint", [501, 502])

    with Recommender("shop", dsn=dsn) as model:
        before = model.recommend(7, k=1000)
        report = backfill(dsn, "shop", 1)
        after = model.recommend(7, k=1000)

    assert report.loaded == 2
    assert set(before.ids) == set(range(1, 201))
    assert set(after.ids) == {*range(4, 201), 501, 502}
    assert state(dsn).state == "serving"


# interruptions ---------------------------------------------------------------------


def test_a_killed_backfill_is_resumed_where_it_stopped(dsn: str) -> None:
    building(dsn)
    process = start_slowly(dsn)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    done = count(dsn)
    assert 20 <= done < 200
    assert count(dsn, "item_embedding_shop_1") == done
    assert_unreadable(dsn)

    report = backfill(dsn, "shop", 1)

    assert report.loaded == 200 - done
    assert_complete(dsn)


def test_ctrl_c_leaves_a_version_that_a_second_run_completes(dsn: str) -> None:
    building(dsn)
    process = start_slowly(dsn)
    process.send_signal(signal.SIGINT)
    process.communicate()

    assert_unreadable(dsn)
    backfill(dsn, "shop", 1)
    assert_complete(dsn)


def test_progress_is_visible_in_sql_and_two_backfills_exclude_each_other(
    dsn: str,
) -> None:
    building(dsn)
    process = start_slowly(dsn)
    try:
        with pytest.raises(VersionStateError, match="another backfill") as caught:
            backfill(dsn, "shop", 1)
        assert "recsys status" in caught.value.hint
        with _db.connect(dsn) as conn:
            row = conn.execute(
                "select state, phase, rows_done, rows_total, progress_percent,"
                " eta > interval '0' from recsys.version_status"
            ).fetchone()
        assert row
        name, phase, rows_done, rows_total, percent, eta = row
        assert (name, phase, rows_total, eta) == ("building", "loading", 200, True)
        assert 20 <= rows_done < 200
        assert float(percent) == rows_done / 2
        assert_unreadable(dsn)
    finally:
        _, errors = process.communicate(timeout=30)

    assert process.returncode == 0, errors
    assert_complete(dsn)


def test_a_server_that_stops_leaves_a_version_that_a_second_run_completes(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "pgdata"
    dsn = embedded.start(folder)
    try:
        schema.upgrade(dsn)
        building(dsn)
        process = start_slowly(dsn)
        embedded.stop(folder)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert errors.splitlines()[-1].startswith(("psycopg.", "recsys.errors."))
        assert "Exception ignored" not in errors

        embedded.start(folder)
        assert 20 <= count(dsn) < 200
        assert_unreadable(dsn)
        backfill(dsn, "shop", 1)
        assert_complete(dsn)
    finally:
        embedded.stop(folder)


def test_items_that_come_and_go_between_the_passes_are_followed(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    building(dsn)
    original, calls = Completion._load_missing, []

    def load(self: Any, *args: Any) -> int:
        loaded = original(self, *args)
        if not calls:
            with _db.connect(dsn) as conn:
                conn.execute("delete from product where id in (1, 2, 3)")
                world.add_products(conn, "bigint", [901, 902])
        calls.append(True)
        return loaded

    monkeypatch.setattr(Completion, "_load_missing", load)
    backfill(dsn, "shop", 1)

    with _db.connect(dsn) as conn:
        stored = set(world.stored_vectors(conn, "shop_1"))
        rows = set(world.stored_vectors(conn, "shop_1", "item_embedding"))
    assert stored == rows == {*range(4, 201), 901, 902}
    assert len(calls) == 2


def test_a_source_that_never_rests_is_an_error_not_a_loop(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    building(dsn, items=30)
    original, numbers = Completion._load_missing, iter(range(1000, 2000))

    def load(self: Any, *args: Any) -> int:
        loaded = original(self, *args)
        with _db.connect(dsn) as conn:
            world.add_products(conn, "bigint", [next(numbers)])
        return loaded

    monkeypatch.setattr(Completion, "_load_missing", load)
    with pytest.raises(VersionStateError, match="faster") as caught:
        backfill(dsn, "shop", 1)

    assert "recsys watch shop" in caught.value.hint
    assert_unreadable(dsn)


# bad sources -----------------------------------------------------------------------


def with_items(sql: str, id_type: IdType = "bigint") -> ModelConfig:
    data = world.toml(id_type, features=True)
    data["model"]["shop"]["items"]["sql"] = sql
    return from_mapping(data).model("shop")


ALL = "id as item_id, title, brand, price, created_at from product"


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ("alter table product rename column brand to marke", "brand"),
        ("drop table product cascade", "product"),
        ("delete from product", "no items"),
        (
            "alter table product drop constraint product_pkey;"
            "insert into product select * from product where id = 7",
            "twice",
        ),
        (
            "alter table product drop constraint product_pkey;"
            "alter table product alter id drop not null;"
            "insert into product (id, shelf) values (null, 1)",
            "null item_id",
        ),
        (
            "alter table product alter id type text using id || 'x'",
            "x",
        ),
        (
            "alter table product alter price type text using 'cheap'",
            "cheap",
        ),
    ],
)
def test_a_source_that_went_bad_is_named_and_remembered(
    dsn: str, later: str, message: str
) -> None:
    building(dsn, with_items(f"select {ALL}"))
    with _db.connect(dsn) as conn:
        conn.execute("drop table event cascade")
        conn.execute(
            "create table event (customer_id bigint, product_id bigint,"
            " created_at timestamptz, kind text)"
        )
        conn.execute(later.encode())

    with pytest.raises(SourceError, match=message) as caught:
        backfill(dsn, "shop", 1)

    assert caught.value.hint
    assert state(dsn).state == "building"
    assert message in (state(dsn).error or "")
    with _db.connect(dsn) as conn, pytest.raises(VersionStateError):
        rollout.promote(conn, "shop", 1, reason="test", force=True)


def test_the_remembered_error_goes_when_a_run_succeeds(dsn: str) -> None:
    building(dsn)
    with _db.connect(dsn) as conn:
        conn.execute("alter table product rename to gone")
    with pytest.raises(SourceError):
        backfill(dsn, "shop", 1)
    with _db.connect(dsn) as conn:
        conn.execute("alter table gone rename to product")

    backfill(dsn, "shop", 1)

    assert_complete(dsn)


def test_wild_feature_values_are_no_reason_to_stop(dsn: str) -> None:
    building(dsn)
    with _db.connect(dsn) as conn:
        conn.execute("update product set price = 'nan' where id = 1")
        conn.execute("update product set price = 'infinity' where id = 2")
        conn.execute("update product set price = 1e300 where id = 3")
        conn.execute("update product set title = repeat('wörter ', 1500000) where id=4")
        conn.execute("update product set brand = repeat('x', 10000000) where id = 5")
        conn.execute("update product set created_at = 'infinity' where id = 6")
        conn.execute("update product set created_at = '-infinity' where id = 7")
        conn.execute(
            "update product set title = null, brand = null, price = null,"
            " created_at = null where id = 8"
        )
        conn.execute(
            "update product set title = '🍏 مرحبا', brand = E'\\x1f' where id=9"
        )

    backfill(dsn, "shop", 1)

    assert_complete(dsn)
    with _db.connect(dsn) as conn:
        for vector in world.stored_vectors(conn, "shop_1").values():
            assert np.isfinite(vector).all()


def test_an_item_with_neither_row_nor_content_does_not_stop_the_rest(dsn: str) -> None:
    model = world.shop_config()
    world.fill_shop(dsn)
    world.add_version(dsn, model, cold=10)

    assert_complete(dsn)


def test_what_is_not_there_is_named(dsn: str) -> None:
    with pytest.raises(UnknownModel):
        backfill(dsn, "shop")
    building(dsn)
    with pytest.raises(UnknownVersion):
        backfill(dsn, "shop", 9)


# artifacts that do not fit ---------------------------------------------------------


def corrupt(conn: _db.Connection, name: str) -> None:
    conn.execute(
        "alter table recsys.artifact drop constraint artifact_content_matches_its_name"
    )
    conn.execute(
        "update recsys.artifact set content = set_byte(content, 100,"
        " (get_byte(content, 100) + 1) & 255) where sha256 ="
        " (select artifacts ->> %s from recsys.model_version)",
        (name,),
    )


def remove(conn: _db.Connection, name: str) -> None:
    conn.execute(
        "delete from recsys.artifact where sha256 ="
        " (select artifacts ->> %s from recsys.model_version)",
        (name,),
    )


@pytest.mark.parametrize("name", ["item_tower", "embeddings", "query_tower"])
@pytest.mark.parametrize(
    ("damage", "message"), [(corrupt, "corrupted"), (remove, "not in this database")]
)
def test_a_damaged_artifact_is_named_and_nothing_is_served(
    dsn: str, name: str, damage: Callable[[_db.Connection, str], None], message: str
) -> None:
    building(dsn)
    with _db.connect(dsn) as conn:
        damage(conn, name)

    with pytest.raises(ArtifactError, match=message) as caught:
        backfill(dsn, "shop", 1)

    assert caught.value.hint
    assert_unreadable(dsn)


def swap(conn: _db.Connection, name: str, kind: artifacts.Kind, content: bytes) -> None:
    sha256 = artifacts.put(conn, kind, content)
    conn.execute(
        "update recsys.model_version set artifacts ="
        " artifacts || jsonb_build_object(%s::text, %s::text)",
        (name, sha256),
    )


@pytest.mark.parametrize("name", ["item_tower", "query_tower", "embeddings"])
@pytest.mark.parametrize("what", ["other dimension", "garbage"])
def test_towers_and_tables_of_different_dimension_are_refused(
    dsn: str, name: str, what: str
) -> None:
    learned = building(dsn)
    wide = world.shop_config(features=True, train={"dim": 16})
    with _db.connect(dsn) as conn:
        other = world.plan(conn, world.learn(conn, wide), 2).artifacts[name]
        content = artifacts.get(conn, other) if what == "other dimension" else b"junk"
        kind: artifacts.Kind = "safetensors" if name == "embeddings" else "onnx"
        swap(conn, name, kind, content)
    assert learned.config.train.dim != wide.train.dim

    with pytest.raises(ArtifactError) as caught:
        backfill(dsn, "shop", 1)

    assert caught.value.hint
    assert_unreadable(dsn)


def test_an_edited_dimension_is_refused(dsn: str) -> None:
    building(dsn)
    with _db.connect(dsn) as conn:
        conn.execute("update recsys.model_version set dim = 33")

    with pytest.raises(ArtifactError, match="33 dimensions"):
        backfill(dsn, "shop", 1)


def test_an_index_that_misses_its_target_is_not_ready(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys import _calibration

    building(dsn)
    monkeypatch.setattr(_calibration, "_recall", lambda *_: 0.5)

    with pytest.raises(VersionStateError, match=r"recall 0\.500") as caught:
        backfill(dsn, "shop", 1)

    assert "index.m" in caught.value.hint
    assert_unreadable(dsn)


def test_a_request_refuses_rows_of_another_dimension(dsn: str) -> None:
    building(dsn)
    backfill(dsn, "shop", 1)
    with _db.connect(dsn) as conn:
        rollout.promote(conn, "shop", 1, reason="test", force=True)
        conn.execute(
            "alter table recsys.item_embedding_shop_1 alter embedding type halfvec(4)"
            " using subvector(embedding, 1, 4)"
        )

    with Recommender("shop", dsn=dsn) as model, pytest.raises(RecsysError) as caught:
        model.recommend(7)

    assert isinstance(caught.value, ArtifactError)
    assert "train again" in caught.value.hint


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    before = threading.active_count()
    yield
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before, os.getpid()


@pytest.mark.parametrize("number", [0, -1, 99])
def test_a_number_that_no_version_has_is_not_the_newest(dsn: str, number: int) -> None:
    world.fill_shop(dsn)
    world.add_version(dsn, world.shop_config(), ready=False)

    with pytest.raises(UnknownVersion):
        backfill(dsn, "shop", number)


def test_a_version_dropped_meanwhile_is_told(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fill_shop(dsn)
    world.add_version(dsn, world.shop_config(), ready=False)
    build = _index.build

    def drop_first(*args: Any, **options: Any) -> Any:
        with _db.connect(dsn) as conn:
            rollout.drop(conn, "shop", 1)
        return build(*args, **options)

    monkeypatch.setattr(_index, "build", drop_first)
    with pytest.raises(VersionStateError, match="dropped meanwhile"):
        backfill(dsn, "shop", 1)


def test_a_lock_at_the_very_end_loses_no_work(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion in work holds the model's row, longer than one lock_timeout."""
    building(dsn, items=30)
    monkeypatch.setattr(rollout, "_LOCK_TIMEOUT", "200ms")
    coverage = _completion.coverage
    waited: list[float] = []
    with _db.connect(dsn) as promotion:

        def look(conn: Any, version: Any) -> Any:
            found = coverage(conn, version)
            phase = conn.execute("select phase from recsys.model_version").fetchone()
            conn.commit()
            if phase == ("verifying",) and not waited:
                promotion.execute("select from recsys.model for update")
                waited.append(time.monotonic())
                threading.Timer(0.7, promotion.rollback).start()
            return found

        monkeypatch.setattr(_completion, "coverage", look)
        report = backfill(dsn, "shop", 1)

    assert report.item_count == 30
    assert time.monotonic() - waited[0] > 0.6
    with _db.connect(dsn) as conn:
        assert versions.get(conn, "shop", 1).state == "ready"


FULL = """
create function full_disk() returns trigger language plpgsql as $$ begin
    raise exception 'could not extend file: No space left on device'
        using errcode = 'disk_full';
end $$;
"""


def test_a_full_disk_stops_a_backfill_and_nothing_else(dsn: str) -> None:
    building(dsn, items=30)
    backfill(dsn, "shop", 1)
    with _db.connect(dsn) as conn:
        rollout.promote(conn, "shop", 1)
    number, _ = world.add_version(dsn, world.shop_config(), seed=2, ready=False)
    with _db.connect(dsn) as conn:
        conn.execute(FULL)
        conn.execute(
            "create trigger full_disk before insert on recsys.item_embedding_shop_2"
            " for each row execute function full_disk()"
        )

    with pytest.raises(DatabaseUnavailable, match="disk is full") as caught:
        backfill(dsn, "shop", number)

    assert "on where it stopped" in caught.value.hint
    with _db.connect(dsn) as conn:
        version = versions.get(conn, "shop", number)
        assert version.state == "building"
        assert "No space left" in (version.error or "")
        with Recommender("shop", dsn=dsn) as recommender:
            assert recommender.recommend(1, k=5).version == 1
        conn.execute("drop function full_disk cascade")
    assert backfill(dsn, "shop", number).item_count == 30
