"""Reading the sources: one snapshot, in batches, with errors that say what to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest

from recsys.config import Feature, Interactions, ModelConfig, Source
from recsys.encoder.values import number_of
from recsys.errors import SourceError, TrainingError
from recsys.training import data, reading
from recsys.training.data import read

ITEMS = Source(
    "select id as item_id, title, price, tags from product",
    (
        Feature("title", "text", buckets=64),
        Feature("price", "number"),
        Feature("tags", "categories", min_count=1),
    ),
)
EVENTS = "select user_id, item_id, at as occurred_at, kind from event -- all of them"
CONFIG = ModelConfig(
    name="shop",
    item_id="bigint",
    user_id="text",
    items=ITEMS,
    users=Source(),
    context=Source(),
    interactions=Interactions(
        EVENTS,
        {"view": 1.0, "buy": 3.0, "skip": 0.0},
        ("buy",),
    ),
)


@pytest.fixture
def shop(db: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    db.execute(
        """
        create table product (id int primary key, title text, price numeric,
                              tags text[]);
        create table event (user_id text, item_id bigint, at timestamptz, kind text);
        create table customer (id text, team text);
        insert into product
            select i, 'thing ' || i, i, array['t' || i % 3]
            from generate_series(1, 30) i;
        insert into event
            select 'u' || u, 1 + (u * 7 + k) % 30,
                   '2024-01-01Z'::timestamptz + k * interval '1 day',
                   (array['view', 'buy', 'skip'])[1 + k % 3]
            from generate_series(1, 40) u, generate_series(1, 9) k;
        insert into event values
            ('u1', 999, now(), 'view'), (null, 1, now(), 'view'),
            ('u1', null, now(), 'view'), ('u2', 3, null, null),
            ('u3', 3, 'infinity', 'view');
        insert into customer select 'u' || u, 'team' || u % 2
            from generate_series(1, 60) u;
        """
    )
    db.commit()
    return db


def test_everything_arrives_once(
    shop: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "FETCH_ROWS", 7)
    monkeypatch.setattr(data, "_FETCH_WITH_FEATURES", 7)

    dataset = read(shop, CONFIG)

    assert sorted(dataset.item_ids) == list(range(1, 31))
    assert len(dataset.user_ids) == 40
    assert len(dataset) == 362
    assert dataset.dropped == 3
    assert np.isnan(dataset.time).sum() == 2
    assert dataset.until == datetime(2024, 1, 10, tzinfo=UTC).timestamp()
    by_kind = dict(zip(dataset.kinds, dataset.kind_weight.tolist(), strict=True))
    assert by_kind == {"view": 1.0, "buy": 3.0, "skip": 0.0, "": 0.0}
    assert dataset.items is not None
    assert len(dataset.items) == 30
    assert set(dataset.items.tokens) == {"title", "tags"}
    assert shop.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_until_cuts_the_interactions(shop: psycopg.Connection[Any]) -> None:
    until = datetime(2024, 1, 4)

    dataset = read(shop, CONFIG, until=until)

    known = dataset.time[np.isfinite(dataset.time)]
    assert known.max() == datetime(2024, 1, 3, tzinfo=UTC).timestamp()


def test_users_and_contexts_are_encoded_in_the_order_of_the_interactions(
    shop: psycopg.Connection[Any],
) -> None:
    config = replace(
        CONFIG,
        users=Source(
            "select id as user_id, team from customer where id <> 'u7'",
            (Feature("team", "category"),),
        ),
        context=Source("", (Feature("hour", "category"),)),
        interactions=Interactions(
            "select user_id, item_id, at as occurred_at, "
            "extract(day from at)::int % 2 as hour from event where item_id < 999"
        ),
    )

    dataset = read(shop, config)

    assert dataset.users is not None
    tokens = dataset.users.tokens["team"]
    teams = {
        user: tokens.index[tokens.start[i] : tokens.start[i + 1]].tolist()
        for i, user in enumerate(dataset.user_ids)
    }
    assert teams["u7"] == []
    assert teams["u1"] == teams["u3"] != teams["u2"]
    assert dataset.context is not None
    assert dataset.contexts is not None
    assert len(dataset.contexts) == len(np.unique(dataset.context)) == 3


@pytest.mark.parametrize(
    ("id_type", "sql_type", "kind"), [("uuid", "uuid", UUID), ("text", "text", str)]
)
def test_ids_keep_the_type_of_the_application(
    shop: psycopg.Connection[Any], id_type: Any, sql_type: str, kind: type
) -> None:
    id_ = "md5(item_id::text)::" + sql_type
    config = replace(
        CONFIG,
        item_id=id_type,
        items=Source(
            f"select {id_} as item_id from (select id item_id from product) p"
        ),
        interactions=Interactions(f"select user_id, {id_} as item_id from event"),
    )

    dataset = read(shop, config)

    assert all(isinstance(item, kind) for item in dataset.item_ids)
    assert len(dataset) == 362


@pytest.mark.parametrize(
    ("items", "interactions", "message"),
    [
        ("select id from product", "", "no column item_id"),
        ("select nothing", "", "items.sql fails"),
        ("select 1/0 as item_id", "", "division by zero"),
        ("select id::text as item_id from product", "", "says bigint"),
        ("select 1 as item_id from product", "", "more than once"),
        ("select nullif(id, 3) as item_id from product", "", "is null"),
        ("delete from product returning id as item_id", "", "items.sql fails"),
        ("", "select item_id from event", "no column user_id"),
        ("", "select user_id, item_id::text from event", "says bigint"),
        ("", "select user_id, item_id, 7 as occurred_at from event", "timestamp"),
        ("", "select user_id, item_id, at::text as kind from event x cross join "
             "generate_series(1, 1) union all select 'u', 1, g::text "
             "from generate_series(1, 2000) g", "kinds"),
    ],
)  # fmt: skip
def test_a_bad_source_is_named(
    shop: psycopg.Connection[Any], items: str, interactions: str, message: str
) -> None:
    config = replace(CONFIG, items=Source(items) if items else CONFIG.items)
    if interactions:
        config = replace(config, interactions=Interactions(interactions))

    with pytest.raises(SourceError, match=message) as caught:
        read(shop, config)

    assert caught.value.hint
    shop.execute("select 1")  # the connection is usable again


@pytest.mark.parametrize(
    ("column", "kind", "says", "hint"),
    [
        ("title", "number", "type text, such as 'thing 1'", '"category" or "text"'),
        ("added", "number", "type timestamptz, such as '2024", 'Declare it as "time"'),
        ("tags", "number", "type text[], such as '{t1}'", '"categories"'),
        ("shown", "number", "type bool, such as 'true'", "select a number"),
        ("mood", "number", "type mood, such as 'fine'", "select a number"),
        ("title", "time", "type text, such as 'thing 1'", "title::timestamptz"),
        ("price", "time", "type numeric, such as '1'", "to_timestamp(price)"),
        ("title", "categories", "type text, such as 'thing 1'", "separator"),
        ("price", "categories", "type numeric, such as '1'", 'Declare it as "number"'),
    ],
)
def test_a_feature_of_another_type_is_named_with_a_value(
    shop: psycopg.Connection[Any], column: str, kind: str, says: str, hint: str
) -> None:
    shop.execute("create type mood as enum ('fine')")
    shop.commit()
    query = (
        "select id as item_id, title, price, tags, true as shown,"
        " '2024-01-01Z'::timestamptz as added, 'fine'::mood as mood from product"
    )
    config = replace(CONFIG, items=Source(query, (Feature(column, kind),)))

    with pytest.raises(SourceError) as caught:
        read(shop, config)

    wanted = f"feature {column!r} is declared as {kind}, but its column in items.sql"
    assert str(caught.value).startswith(wanted)
    assert says in str(caught.value)
    assert hint.replace("Declare it", f"Declare {column}") in caught.value.hint


def test_features_of_users_and_contexts_are_looked_at_before_anything_is_read(
    shop: psycopg.Connection[Any],
) -> None:
    team = (Feature("team", "number"),)
    config = replace(
        CONFIG, users=Source("select id as user_id, team from customer", team)
    )
    with pytest.raises(SourceError, match=r"'team' is declared as number.*users\.sql"):
        read(shop, config)

    kind = (Feature("kind", "time"),)
    config = replace(CONFIG, context=Source("", kind))
    with pytest.raises(SourceError, match=r"'kind' is declared as time.*interactions"):
        read(shop, config)


def test_text_that_reads_as_a_number_is_one(shop: psycopg.Connection[Any]) -> None:
    query = (
        "select id as item_id, (array['1', ' -2.5 ', '.5e3', '3.', 'NaN', '-inf',"
        " null, '0x1F'])[1 + id % 8] as price from product"
    )
    config = replace(CONFIG, items=Source(query, (Feature("price", "number"),)))

    dataset = read(shop, config)

    assert dataset.items is not None
    assert len(dataset.items) == 30


@pytest.mark.parametrize(
    "text",
    ["", "1,5", "1e", ".", "0x", "0x1G", "1 2", "--1", "1_000", "1e400", "1e-400"],
)
def test_what_no_cast_takes_is_no_number(
    shop: psycopg.Connection[Any], text: str
) -> None:
    query = (
        "select 1 as item_id, '7'::text as price union all"
        f" select 2, '{text}' union all select 3, '0x1F'"
    )
    config = replace(CONFIG, items=Source(query, (Feature("price", "number"),)))

    with pytest.raises(SourceError) as caught:
        read(shop, config)

    said = "'price' is declared as number, but its column in items.sql is of type text"
    assert f"{said}, such as {text!r}" in str(caught.value)
    assert "a number that float8 holds as price in items.sql" in caught.value.hint


def test_a_text_is_the_number_that_postgres_casts_it_to(
    shop: psycopg.Connection[Any],
) -> None:
    signs, blanks = ["", "-", "+"], ["{}", " {}\t\n", "\v\f\r{}"]
    words = [
        "0", "1", "1.", ".5", "1.5e3", "1e308", "1e309", "1E+400", "1e-320", "1e-400",
        "0e-999", "0x1F", "0X.8", "0x1.8p1", "0x1p1024", "0x1p-1080", "0x0p-9999",
        "inf", "Infinity", "NaN", "infin", "0x", "0b1", "1_000", "1,5", ".", "e5", "",
        "1f", "1d", "\u0661", "1e5.", "9" * 400,
    ]  # fmt: skip
    for text in (b.format(s + w) for w in words for s in signs for b in blanks):
        try:
            with shop.transaction():
                row = shop.execute("select (%s::text)::float8", (text,)).fetchone()
        except psycopg.DataError:
            row = None

        if row is None:
            with pytest.raises(ValueError, match=r"no number|out of range"):
                number_of(text)
        else:
            assert repr(number_of(text)) == repr(row[0]), text


@pytest.mark.parametrize(
    "setting", [{"weights": {"view": 1.0}}, {"targets": ("view",)}]
)
def test_settings_about_kinds_need_the_column(
    shop: psycopg.Connection[Any], setting: dict[str, Any]
) -> None:
    sql = "select user_id, item_id from event"
    config = replace(CONFIG, interactions=Interactions(sql, **setting))

    with pytest.raises(SourceError, match="returns no column kind") as caught:
        read(shop, config)

    assert f"interactions.{next(iter(setting))} names kinds" in str(caught.value)
    assert "(view)" in str(caught.value)
    assert "recsys.toml" in caught.value.hint


def test_a_source_cannot_write(shop: psycopg.Connection[Any]) -> None:
    shop.execute(
        "create function wipe() returns int language sql as "
        "'delete from event; select 1'"
    )
    shop.commit()

    with pytest.raises(SourceError, match="read-only"):
        read(shop, replace(CONFIG, items=Source("select wipe() as item_id")))


def test_until_needs_times(shop: psycopg.Connection[Any]) -> None:
    config = replace(
        CONFIG, interactions=Interactions("select user_id, item_id from event")
    )

    with pytest.raises(SourceError, match="occurred_at"):
        read(shop, config, until=datetime(2024, 1, 1, tzinfo=UTC))


def test_an_open_transaction_is_refused(shop: psycopg.Connection[Any]) -> None:
    shop.execute("select 1")

    with pytest.raises(TrainingError, match="inside a transaction"):
        read(shop, CONFIG)


def test_no_rows_at_all_are_a_data_set_without_interactions(
    shop: psycopg.Connection[Any],
) -> None:
    config = replace(
        CONFIG,
        interactions=Interactions("select user_id, item_id from event where false"),
    )

    dataset = read(shop, config)

    assert len(dataset) == 0
    assert dataset.until is None


def test_kinds_that_match_nothing_are_named(
    shop: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    weights = {"view": 1.0, "buys": 3.0}
    read(shop, replace(CONFIG, interactions=Interactions(EVENTS, weights)))

    said = [record.getMessage() for record in caplog.records]
    assert "kinds that never occur: buys" in said
    [rest] = [text for text in said if text.startswith("kinds without a weight")]
    assert "buy (" in rest
    assert "skip (" in rest


def test_no_kind_is_named_where_all_are_declared(
    shop: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    shop.execute("delete from event where kind is null")
    shop.commit()
    read(shop, CONFIG)

    said = [record.getMessage() for record in caplog.records]
    assert not [text for text in said if text.startswith("kinds")]
