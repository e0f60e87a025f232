"""Any statement of SQLAlchemy as a filter: the rows it returns, and nothing else."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sa_shop import Customer, Event, Product, url_of
from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    Engine,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    bindparam,
    cast,
    create_engine,
    event,
    exists,
    false,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    tuple_,
    type_coerce,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, INT4RANGE, JSONB, Range
from sqlalchemy.orm import Session, aliased, with_loader_criteria

from recsys import Recommender, filters
from recsys.errors import ConfigError, SourceError
from recsys.sqlalchemy import EngineSource, SessionSource, sql_of


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Cents(TypeDecorator[int]):
    """Pounds in Python, pence in the database."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else round(value * 100)


VALUES = [
    (1, Integer()),
    (2**62, BigInteger()),
    ('O\'Brien \\ %s %% :p "x" قميص 🍏', Text()),
    ("", Text()),
    (None, Text()),
    (True, None),
    (1.5, None),
    (Decimal("1.500"), Numeric(10, 3)),
    (date(2026, 2, 28), Date()),
    (time(23, 59, 1), Time()),
    (datetime(2026, 3, 1, 12, tzinfo=UTC), DateTime(timezone=True)),
    (timedelta(days=3, seconds=7), Interval()),
    (UUID(int=7), Uuid()),
    (b"\x00\xff%", LargeBinary()),
    ({"a": [1, None, "'"]}, JSONB()),
    ([1, 2, 3], ARRAY(Integer)),
    (["a'b", "{,}", None], ARRAY(Text)),
    (Colour.BLUE, Enum(Colour, native_enum=False)),
    (Range(1, 5), INT4RANGE()),
    (1.99, Cents()),
]
QUERIES = {
    "where": select(Product.id).where(Product.price < 20, Product.brand == "Acme"),
    "like": select(Product.id).where(Product.title.like("%shirt%")),
    "in": select(Product.id).where(Product.brand.in_(["Acme", "شركة", "O'X"])),
    "in of a type": select(Product.id).where(
        type_coerce(Product.shelf, Cents).in_([0.03, 0.04])
    ),
    "in none": select(Product.id).where(Product.brand.in_([])),
    "tuples": select(Product.id).where(
        tuple_(Product.id, Product.shelf).in_([(1, 1), (2, 2), (3, 4)])
    ),
    "or": select(Product.id).where((Product.price < 5) | (Product.shelf > 150)),
    "join": select(Product.id).join(Product.events).where(Event.kind == "cart"),
    "exists": select(Product.id).where(
        exists().where(Event.product_id == Product.id, Event.kind == "purchase")
    ),
    "any": select(Product.id).where(Product.events.any(Event.kind == "cart")),
    "subquery": select(Product.id).where(
        Product.id.in_(select(Event.product_id).where(Event.kind == "view"))
    ),
    "group": select(Event.product_id).group_by(Event.product_id).having(
        func.count() > 2
    ),
    "limit": select(Product.id).order_by(Product.price).limit(7),
    "union": union(
        select(Product.id).where(Product.shelf < 3),
        select(Product.id).where(Product.shelf > 190),
    ),
    "cte": select(
        select(Product.id).where(Product.shelf < 9).cte("cheap").c.id
    ),
    "alias": select(aliased(Product, name="p").id).limit(0),
    "text": text("select id from product where price < :most and title like '%e%'")
    .bindparams(most=30),
    "text columns": text("select id from product where shelf = :s")
    .bindparams(s=4)
    .columns(Product.id),
    "odd names": select(Product.id).where(
        Product.price < bindparam("my (param)%", 12.5)
    ),
    "percent": select(Product.id).where(Product.shelf % 3 == 1),
    "nothing": select(Product.id).where(false()),
    "core": select(Product.__table__.c.id).where(Product.__table__.c.shelf < 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(sa_template: str) -> Iterator[Engine]:
    """An engine on the shop for tests that only read."""
    made = create_engine(url_of(sa_template))
    yield made
    made.dispose()


@pytest.fixture
def plain(sa_template: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(sa_template) as conn:
        yield conn


def written(conn: psycopg.Connection, query: object, source: object = None) -> str:
    """The SQL of a query as recsys sends it, values and all."""
    found = sql_of(query, 1, source)
    return filters.literal(conn, found)


@pytest.mark.parametrize(("value", "kind"), VALUES, ids=repr)
def test_a_value_of_any_type_arrives_as_sqlalchemy_sends_it(
    shared: Engine, plain: psycopg.Connection, value: object, kind: object
) -> None:
    query = select(cast(literal(value, kind), Text))

    sent = plain.execute(written(plain, query)).fetchone()

    with shared.connect() as conn:
        assert sent == (conn.scalar(query),)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_no_text_leaves_its_quotes(plain: psycopg.Connection, value: str) -> None:
    query = select(literal(value, Text), literal_column("1"))

    sent = plain.execute(
        filters.literal(plain, sql_of(query, 2))
    ).fetchone()  # fmt: skip

    assert sent == (value, 1)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_gives_the_rows_that_its_session_gives(
    shared: Engine, plain: psycopg.Connection, name: str
) -> None:
    query = QUERIES[name]

    sent = plain.execute(written(plain, query)).fetchall()

    with Session(shared) as session:
        wanted = session.scalars(query).all()
        assert sorted(row[0] for row in sent) == sorted(wanted)
        assert wanted or name in ("in none", "alias", "nothing")


def test_a_legacy_query_is_a_query(shared: Engine, plain: psycopg.Connection) -> None:
    with Session(shared) as session:
        query = session.query(Product.id).filter(Product.shelf < 3)

        sent = plain.execute(written(plain, query)).fetchall()

    assert sorted(sent) == [(1,), (2,)]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (select(Product), "the query has 5 columns, 1 is needed"),
        (select(Product.id, Product.price), "the query has 2 columns"),
        (Product.id, "got InstrumentedAttribute"),
        (select(Product.id).subquery(), "got Subquery"),
        (select(Product.id).scalar_subquery(), "got ScalarSelect"),
        (insert(Product).returning(Product.id), "a statement that is not one"),
        (update(Product).values(shelf=1), "a statement that is not one"),
        (select(Product.id).with_for_update(), "locks its rows"),
        (select(Product.id).where(Product.price < bindparam("p")), "'p'"),
        (text("select id from product where price < :p"), "'p'"),
        (
            select(Product.id).where(
                literal(3, Enum(Colour, native_enum=False)) == Product.brand
            ),
            "no value of its type",
        ),
    ],
)
def test_what_is_no_list_of_ids_is_refused_with_a_hint(
    query: object, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        filters.normalise(query, 1)

    assert error.value.hint


def test_a_statement_that_fails_in_the_database_is_the_programmers(
    shared: Engine,
) -> None:
    lost = Table("lost", MetaData(), Column("id", BigInteger))

    with Session(shared) as session:
        shop = Recommender("shop", connection=session)
        with pytest.raises(SourceError, match="lost"):
            shop.recommend(1, k=3, among=select(lost.c.id))
        assert session.scalar(select(func.count(Product.id))) == 200


def test_criteria_of_a_listener_apply_to_a_filter(shared: Engine) -> None:
    """The recipe for tenants and for rows that are deleted softly."""
    asked = []

    class Tenant(Session):
        pass

    @event.listens_for(Tenant, "do_orm_execute")
    def only_low_shelves(state):
        state.statement = state.statement.options(
            with_loader_criteria(Product, Product.shelf <= 40)
        )

    with Tenant(shared) as session:
        event.listen(shared, "before_cursor_execute", lambda *a: asked.append(a[2]))
        page = Recommender("shop", connection=session).recommend(
            1, k=20, among=select(Product.id).where(Product.shelf > 10)
        )
        event.remove(Tenant, "do_orm_execute", only_low_shelves)

    assert len(page) == 20
    assert all(10 < item <= 40 for item in page.ids)
    assert asked == []


def test_a_listener_that_answers_for_the_database_is_not_taken_for_a_filter(
    shared: Engine,
) -> None:
    with Session(shared) as session:
        kept = session.execute(select(Product.id)).freeze()
        event.listen(session, "do_orm_execute", lambda state: kept())

        with pytest.raises(ConfigError, match="answered the filter itself"):
            sql_of(select(Product.id), 1, SessionSource(session))


def test_schemas_are_translated_as_the_engine_does(shared: Engine) -> None:
    moved = shared.execution_options(schema_translate_map={None: "public", "x": "y z"})
    other = Table("other", MetaData(schema="x"), Column("id", BigInteger))

    query, _ = sql_of(select(Product.id), 1, EngineSource(moved))
    quoted, _ = sql_of(select(other.c.id), 1, EngineSource(moved))

    assert "FROM public.product" in query
    assert 'FROM "y z".other' in quoted


def test_a_filter_over_another_database_is_refused(shared: Engine) -> None:
    elsewhere = create_engine("postgresql+psycopg://nowhere/other")
    with Session(shared, binds={Customer: elsewhere}) as session:
        source = SessionSource(session)

        assert sql_of(select(Product.id), 1, source)
        for query in (
            select(Customer.id),
            select(Product.id).where(Product.id.in_(select(Customer.id))),
            select(Product.id).join(Customer, Customer.id == Product.id),
        ):
            with pytest.raises(ConfigError, match=r"customer.*another database"):
                sql_of(query, 1, source)


def test_the_engines_own_serialiser_writes_json(sa_template: str) -> None:
    engine = create_engine(url_of(sa_template), json_serializer=lambda value: '"mine"')
    query = select(cast(literal({"a": 1}, JSONB), Text))
    source = EngineSource(engine)

    with source.use() as conn:
        sent = conn.execute(written(conn, query, source)).fetchone()

    assert sent == ('"mine"',)
    engine.dispose()
