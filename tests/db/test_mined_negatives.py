"""Values, dislikes and hard negatives as training reads them from the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
import pytest
from world import Shop

from recsys import _db
from recsys.config import Interactions, ModelConfig, NegativesConfig, Source
from recsys.errors import SourceError
from recsys.training import mining
from recsys.training.data import read

CONFIG = ModelConfig(
    name="shop",
    item_id="bigint",
    user_id="bigint",
    items=Source("select n::bigint as item_id from generate_series(1, 9) as n"),
    users=Source(),
    context=Source(),
    interactions=Interactions(
        "select user_id, item_id, at as occurred_at, kind, worth as value from event",
        {"buy": 1.0},
        value="linear",
        dislikes=("return",),
    ),
    negatives=NegativesConfig(shown=5, shown_days=10),
)


@pytest.fixture
def store(db: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    db.execute(
        """
        create table event (user_id bigint, item_id bigint, at timestamptz, kind text,
                            worth numeric);
        insert into event values
            (1, 1, now() - interval '1 day', 'buy', 10),
            (1, 2, now() - interval '2 days', 'buy', null),
            (1, 3, now() - interval '3 days', 'return', 5),
            (2, 1, null, 'buy', 'NaN'),
            (2, 2, now() + interval '1 year', 'buy', 30),
            (2, 3, 'infinity', 'buy', -4);
        insert into recsys.impression
            (request_id, model, version, user_id, occurred_at, item_ids, k)
        values
            (md5('a')::uuid, 'shop', 1, '1', now() - interval '2 days', '{4,5,6}', 3),
            (md5('b')::uuid, 'shop', 1, '1', now() - interval '40 days', '{7}', 1),
            (md5('c')::uuid, 'shop', 1, 'guest', now() - interval '2 days', '{4}', 1),
            (md5('d')::uuid, 'other', 1, '1', now() - interval '2 days', '{8}', 1),
            (md5('e')::uuid, 'shop', 1, '1', now() - interval '2 hours', '{9}', 1),
            (md5('f')::uuid, 'shop', 1, '2', now() - interval '3 days', '{4,77,x}', 3);
        insert into recsys.outcome (request_id, model, user_id, item_id, kind)
        values (md5('a')::uuid, 'shop', '1', '5', 'buy');
        """
    )
    db.commit()
    return db


def events(dataset: Any, values: np.ndarray[Any, Any]) -> Mapping[Any, float]:
    return {
        (dataset.user_ids[u], dataset.item_ids[i]): float(v)
        for u, i, v in zip(dataset.user, dataset.item, values, strict=True)
    }


def test_values_dislikes_and_odd_times_arrive(
    store: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = read(store, CONFIG)

    assert dataset.value is not None
    value = events(dataset, dataset.value)
    # 30 is far in the 99th percentile of three values and is cut a little below.
    assert value[2, 2] > value[1, 1] > 0
    assert value[1, 2] == value[2, 1] == 1.0
    assert value[2, 3] == 0.0
    assert dataset.kind_dislike is not None
    marks = dict(zip(dataset.kinds, dataset.kind_dislike.tolist(), strict=True))
    assert marks == {"buy": False, "return": True}
    time = events(dataset, dataset.time)
    assert [pair for pair, at in time.items() if np.isnan(at)] == [
        (2, 1), (2, 2), (2, 3),
    ]  # fmt: skip
    assert (dataset.future, dataset.untimed) == (1, 2)
    assert "1 interaction lies in the future" in caplog.text
    assert "2 of 6 interactions have no time: occurred_at is null" in caplog.text


@pytest.mark.parametrize(
    ("times", "said"), [(", null::timestamptz as occurred_at", 1), ("", 0)]
)
def test_no_time_at_all_is_said_where_there_is_a_column_for_it(
    store: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
    times: str,
    said: int,
) -> None:
    sql = f"select user_id, item_id, kind, worth as value{times} from event"
    dataset = read(
        store, replace(CONFIG, interactions=replace(CONFIG.interactions, sql=sql))
    )

    assert caplog.text.count("all interactions have no time") == said
    assert (dataset.until, dataset.untimed) == (None, 0)


def test_what_was_shown_and_not_chosen_is_read(
    store: psycopg.Connection[Any],
) -> None:
    shown = read(store, CONFIG).shown

    assert shown is not None
    dataset = read(store, CONFIG)
    pairs = {
        (dataset.user_ids[u], dataset.item_ids[i])
        for u, i in zip(shown.user, shown.item, strict=True)
    }
    # Not 5, which was chosen from that answer, nor 7, too old, nor 9: after the last
    # interaction; ids that are none of the model's are left aside.
    assert pairs == {(1, 4), (1, 6), (2, 4)}


def test_impressions_are_not_read_unless_asked_for(
    store: psycopg.Connection[Any],
) -> None:
    assert read(store, replace(CONFIG, negatives=NegativesConfig())).shown is None


def test_a_value_that_is_no_number_says_what_to_do(
    store: psycopg.Connection[Any],
) -> None:
    inter = replace(
        CONFIG.interactions,
        sql="select user_id, item_id, interval '1 hour' as value from event",
    )

    with pytest.raises(SourceError, match="type interval") as caught:
        read(store, replace(CONFIG, interactions=inter))

    assert "extract(epoch" in caught.value.hint


def test_a_source_without_the_declared_value_is_an_error(
    store: psycopg.Connection[Any],
) -> None:
    inter = replace(CONFIG.interactions, sql="select user_id, item_id from event")

    with pytest.raises(SourceError, match="no column value"):
        read(store, replace(CONFIG, interactions=inter))


def test_neighbours_are_the_nearest_of_the_version_that_serves(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mining, "_AT_ONCE", 7)
    learned = shop.learned[1]
    ids = learned.item_ids
    config = replace(learned.config, negatives=NegativesConfig(neighbours=2))
    index = {item: place for place, item in enumerate(ids)}
    counts = np.zeros(len(ids), np.int64)
    counts[[3, 9, 27, *range(40, 60)]] = 5
    with _db.connect(shop.dsn) as conn:
        vectors = dict(
            conn.execute("select item_id, embedding from recsys.item_vector_shop_1")
        )

        found = mining.neighbours(conn, config, index, counts, None)
        earlier = mining.neighbours(
            conn, config, index, counts, datetime(1990, 1, 1, tzinfo=UTC)
        )

    assert found is not None
    assert ((found >= 0).any(1) == (counts > 0)).all()
    unit = np.array([json.loads(vectors[item])[:-1] for item in ids], np.float32)
    nearest = np.argsort(-(unit[9] @ unit.T))
    nearest = nearest[nearest != 9][:5]
    assert len(set(found[9].tolist()) & set(nearest.tolist())) >= 4
    assert 9 not in found[9]
    # A version without "trained_until" may know the future.
    assert earlier is None


def test_without_a_version_there_are_no_neighbours(
    store: psycopg.Connection[Any],
) -> None:
    config = replace(CONFIG, negatives=NegativesConfig(neighbours=2))

    assert read(store, config).neighbours is None
