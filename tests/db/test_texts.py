"""Texts with an encoder: each encoded once, the same everywhere, never by another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import tiny_encoder
import world

from recsys import _db, _texts, backfill, capture, clean_up, pipeline, sync, versions
from recsys._items import ItemEncoder
from recsys.config import ModelConfig, from_mapping
from recsys.encoder.sentence import SentenceEncoder
from recsys.errors import ConfigError
from recsys.progress import SILENT
from recsys.training.data import read
from recsys.worker.loop import Worker

ITEMS = 40


def declared() -> ModelConfig:
    raw = world.toml()
    raw["model"]["shop"]["items"] |= {
        "features": {"title": {"type": "text", "encoder": "mini", "fine_tune": False}},
        "watch": {"product": "id"},
    }
    return from_mapping(raw).model("shop")


@pytest.fixture
def encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the encoders, known to this process by the environment."""
    tiny_encoder.write(tmp_path / "encoders" / "mini")
    monkeypatch.setenv("RECSYS_ENCODERS", str(tmp_path / "encoders"))
    monkeypatch.setattr(_texts, "_ENCODERS", {})
    monkeypatch.setattr(_texts, "_PRINTS", {})
    return tmp_path / "encoders"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that an encoder was asked for."""
    asked: list[str] = []
    encode = SentenceEncoder.encode

    def counted(self: SentenceEncoder, texts: Any) -> Any:
        asked.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(SentenceEncoder, "encode", counted)
    return asked


@pytest.fixture
def app(dsn: str, encoders: Path) -> Iterator[_db.Connection]:
    """A shop of 40 products and one ready version, watched."""
    world.fill_shop(dsn, items=ITEMS)
    config = _texts.with_encoders(declared(), encoders / "recsys.toml")
    world.add_version(dsn, config)
    with _db.connect(dsn, autocommit=True) as conn:
        with conn.transaction():
            capture.watch(conn, config)
        conn.execute("update recsys.capture set reconcile_after = null")
        yield conn


def drain(conn: _db.Connection) -> tuple[int, int]:
    done = Worker(conn.info.dsn).drain()
    return done.items, done.failed


def vector(conn: _db.Connection, item: int) -> np.ndarray:
    return world.stored_vectors(conn, "shop_1")[item]


def fresh(conn: _db.Connection, item: int) -> np.ndarray:
    """The vector of an item as computed from its text now, kept nowhere."""
    encoder = ItemEncoder(conn, versions.get(conn, "shop", 1))
    encoder.texts = _texts.Texts(encoder.config.items.features, keep=False)
    with _db.binary_cursor(conn) as cur:
        cur.execute(encoder.select().encode() + b" where s.item_id = %s", (item,))
        found = encoder.encode(cur.fetchall(), conn)
    return found.vectors[0].astype(np.float16).astype(np.float32)


def kept(conn: _db.Connection) -> int:
    row = conn.execute("select count(*) from recsys.text_embedding").fetchone()
    assert row
    return row[0]


def test_what_the_encoder_is_goes_into_the_version(app: _db.Connection) -> None:
    (feature,) = versions.get(app, "shop", 1).config.items.features

    assert feature.dim == 6
    assert len(feature.sha256) == 64


def test_a_text_is_encoded_once_whoever_meets_it(
    dsn: str, encoders: Path, runs: list[str]
) -> None:
    world.fill_shop(dsn, items=ITEMS)
    config = _texts.with_encoders(declared(), encoders / "recsys.toml")
    runs.clear()

    _texts.warm(dsn, config, SILENT)
    with psycopg.connect(dsn) as conn:
        dataset = read(conn, config)
    world.add_version(dsn, config)
    with _db.connect(dsn, autocommit=True) as conn:
        conn.execute("select recsys._queue_items('shop', array['1', '2', '3'])")
        assert drain(conn) == (3, 0)
        titles = {t for (t,) in conn.execute("select title from product")}
        assert kept(conn) == len(titles)

    assert sorted(runs) == sorted(titles)
    assert dataset.items is not None
    lengths = np.linalg.norm(dataset.items.dense, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)


def test_a_new_and_a_changed_item_get_the_vector_of_their_text(
    app: _db.Connection, runs: list[str]
) -> None:
    runs.clear()
    app.execute("insert into product values (901, 'red mug red', 'A', 9, now(), 1)")
    app.execute("update product set title = 'blue mug lamp chair' where id = 1")
    app.execute("update product set title = null where id = 2")
    app.execute("update product set price = 5 where id = 3")

    assert drain(app) == (4, 0)

    assert sorted(runs) == ["blue mug lamp chair", "red mug red"]
    for item in (901, 1, 2, 3):
        np.testing.assert_array_equal(vector(app, item), fresh(app, item))


def test_without_the_directory_only_new_texts_wait(
    app: _db.Connection, encoders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {item: vector(app, item) for item in (1, 2)}
    (encoders / "mini").rename(encoders / "away")
    monkeypatch.setattr(_texts, "_ENCODERS", {})
    app.execute("update product set title = 'mug mug red' where id = 1")
    app.execute("update product set price = 5 where id = 2")
    app.execute("update product set title = null where id = 3")

    assert drain(app) == (2, 1)

    np.testing.assert_array_equal(vector(app, 1), before[1])
    np.testing.assert_array_equal(vector(app, 2), before[2])
    ((item, error),) = app.execute("select item_id, error from recsys.item_failure")
    assert item == "1"
    assert "'mini' of feature 'title' is not on this machine" in error

    (encoders / "away").rename(encoders / "mini")
    app.execute("update recsys.item_failure set retry_at = now()")
    assert drain(app) == (1, 0)
    np.testing.assert_array_equal(vector(app, 1), fresh(app, 1))


def test_another_encoder_in_its_place_is_never_used(
    app: _db.Connection, encoders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vector(app, 1)
    shutil.rmtree(encoders / "mini")
    tiny_encoder.write(encoders / "mini", seed=7)
    monkeypatch.setattr(_texts, "_ENCODERS", {})
    app.execute("update product set title = 'mug mug red' where id = 1")

    assert drain(app) == (0, 1)

    np.testing.assert_array_equal(vector(app, 1), before)
    ((error,),) = app.execute("select error from recsys.item_failure")
    assert "others than in training" in error


def test_a_running_worker_sees_that_the_directory_was_exchanged(
    app: _db.Connection, encoders: Path
) -> None:
    """A new version of another encoder at the same place, in the same process."""
    shutil.rmtree(encoders / "mini")
    tiny_encoder.write(encoders / "mini", seed=7, dim=5)
    config = _texts.with_encoders(declared(), encoders / "recsys.toml")
    world.add_version(app.info.dsn, config)
    app.execute("update product set title = 'mug mug red' where id = 1")

    assert drain(app) == (1, 0)  # this process still has the first one

    found = [versions.get(app, "shop", n).config.items.features[0] for n in (1, 2)]
    assert [feature.dim for feature in found] == [6, 5]


def test_a_backfill_without_the_directory_says_so_and_goes_on_later(
    dsn: str, encoders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fill_shop(dsn, items=ITEMS)
    world.add_version(
        dsn, _texts.with_encoders(declared(), encoders / "recsys.toml"), ready=False
    )
    (encoders / "mini").rename(encoders / "away")
    monkeypatch.setattr(_texts, "_ENCODERS", {})

    with pytest.raises(ConfigError, match="not on this machine") as found:
        backfill.backfill(dsn, "shop", 1)

    assert "RECSYS_ENCODERS" in found.value.hint
    with _db.connect(dsn) as conn:
        assert versions.get(conn, "shop", 1).state == "building"
    (encoders / "away").rename(encoders / "mini")
    assert backfill.backfill(dsn, "shop", 1).item_count == ITEMS


def test_sync_leaves_new_texts_to_the_worker(
    app: _db.Connection, runs: list[str]
) -> None:
    runs.clear()
    with app.transaction():
        app.execute("update product set title = 'mug mug mug' where id = 1")
        assert not sync.sync_items(app, [1], model="shop")
    with app.transaction():
        app.execute("update product set title = (select title from product"
                    " where id = 3) where id = 2")  # fmt: skip
        assert sync.sync_items(app, [2], model="shop")

    assert runs == []
    drain(app)
    np.testing.assert_array_equal(vector(app, 1), fresh(app, 1))


def test_two_transactions_that_keep_the_same_texts_do_not_wait(
    app: _db.Connection,
) -> None:
    config = versions.get(app, "shop", 1).config
    with _db.connect(app.info.dsn) as one, _db.connect(app.info.dsn) as other:
        other.execute("set lock_timeout = '1s'")
        columns = {"title": ["mug lamp", "lamp mug"]}
        first = _texts.Texts(config.items.features).fill(one, columns)
        second = _texts.Texts(config.items.features).fill(other, columns)

    assert np.array_equal(first["title"], second["title"])


def test_vectors_of_encoders_that_no_version_uses_go(app: _db.Connection) -> None:
    app.execute("update recsys.text_embedding set kept_at = now() - interval '8 days'")
    app.execute(
        "insert into recsys.text_embedding select sha256('other'), text_hash,"
        " embedding, kept_at from recsys.text_embedding limit 1"
    )
    before = kept(app)

    clean_up.run(app, "shop")

    assert kept(app) == before - 1


def test_a_training_runs_from_recsys_toml_to_vectors(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_texts, "_ENCODERS", {})
    world.fill_shop(dsn, items=ITEMS)
    tiny_encoder.write(tmp_path / "models" / "mini")
    raw = world.toml(train={"epochs": 1, "tau": 0.2, "dropout": 0.5})
    title = {"type": "text", "encoder": "models/mini", "fine_tune": True}
    raw["model"]["shop"]["items"]["features"] = {"title": title}
    project = replace(from_mapping(raw), path=tmp_path / "recsys.toml")
    # The worker and the backfill are started where recsys.toml is.
    monkeypatch.chdir(tmp_path)

    trained = pipeline.train_version(dsn, project, "shop", revision=False)
    backfill.backfill(dsn, "shop", trained.plan.number)

    stored = json.loads(json.dumps(trained.plan.spec))["items"]["features"][0]
    assert (stored["dim"], stored["fine_tune"]) == (6, True)
    with _db.connect(dsn) as conn:
        version = versions.get(conn, "shop", 1)
        assert version.item_count == ITEMS
