"""Sessions, Engines and Connections of an application as a recommender's own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sa_shop import Event, Product
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Text,
    Uuid,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError, MissingGreenlet, OperationalError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.types import TypeEngine

from recsys import Page, Recommendation, Recommender, _breaker
from recsys._own import ConnectionLost
from recsys._reason import SessionUnusable
from recsys.errors import ConfigError, DatabaseUnavailable, SourceError
from recsys.sqlalchemy import EngineSource, SessionSource, instances, source

EVENTS = select(func.count()).select_from(Event)


@pytest.mark.parametrize(
    "lend",
    [
        lambda engine: Session(engine),
        lambda engine: scoped_session(sessionmaker(engine)),
        lambda engine: engine.connect(),
        lambda engine: Session(engine.connect()),
    ],
    ids=["session", "scoped", "connection", "on a connection"],
)
def test_a_request_is_part_of_the_transaction(
    engine: Engine, lend: Callable[[Engine], Session | Connection]
) -> None:
    lent = lend(engine)
    shop = Recommender("shop", connection=lent)
    before = shop.recommend(1, k=1)
    count = lent.execute(EVENTS).scalar_one()

    shop.record(1, before.ids[0], "view")

    assert shop.recommend(1, k=1).ids != before.ids
    assert lent.execute(EVENTS).scalar_one() == count + 1
    lent.rollback()
    assert shop.recommend(1, k=1).ids == before.ids
    assert lent.execute(EVENTS).scalar_one() == count
    lent.close()


def test_what_is_recorded_is_committed_by_the_sessions_commit(engine: Engine) -> None:
    with Session(engine) as session:
        before = session.scalar(EVENTS)
        Recommender("shop", connection=session).record(1, 5, "view")
        session.commit()

    with Session(engine) as session:
        assert session.scalar(EVENTS) == before + 1


def test_a_connection_without_a_transaction_begins_one(engine: Engine) -> None:
    """Else its commit() would commit nothing, and the pool would roll back."""
    with engine.connect() as conn:
        Recommender("shop", connection=conn).record(1, 5, "view")

        assert conn.in_transaction()
        conn.commit()

    with engine.connect() as conn:
        assert conn.scalar(EVENTS) == 361


def test_what_the_session_has_not_sent_yet_is_sent_before(engine: Engine) -> None:
    with Session(engine) as session:
        shop = Recommender("shop", connection=session)
        best = shop.recommend(1, k=1).ids[0]
        now = datetime.fromisoformat("2026-03-02T00:00:00Z")
        session.add(Event(customer_id=1, product_id=best, kind="view", created_at=now))

        with session.no_autoflush:
            assert shop.recommend(1, k=1).ids == [best]
        assert shop.recommend(1, k=1).ids != [best]


@pytest.mark.parametrize("ask", ["recommend", "record"])
def test_what_the_session_cannot_send_is_the_applications_error(
    engine: Engine, ask: str
) -> None:
    shop = Recommender("shop", connection=engine, timeout_ms=5000)
    shop.recommend(1)
    for _ in range(_breaker.FAILURES + 1):
        with Session(engine) as session:
            session.add(Product(id=1, shelf=1))
            inside = shop.on(session)
            with pytest.raises(IntegrityError) as error:
                inside.recommend(1) if ask == "recommend" else inside.record(
                    1, 5, "view"
                )
            assert isinstance(error.value.orig, psycopg.errors.UniqueViolation)

    assert shop._engine.breaker.state == "closed"
    assert shop.recommend(1).degraded is None


def test_what_the_session_waits_for_in_vain_is_no_fallback(engine: Engine) -> None:
    with Session(engine) as session, Session(engine) as other:
        shop = Recommender("shop", connection=session, timeout_ms=5000)
        shop.recommend(1)
        changed = session.get_one(Product, 5)
        other.execute(text("select from product where id = 5 for update"))
        session.execute(text("set local lock_timeout = '50ms'"))
        changed.title = "new"

        with pytest.raises(OperationalError, match="lock timeout"):
            shop.recommend(1)


def test_what_the_session_sends_is_neither_cut_off_nor_counted(engine: Engine) -> None:
    with Session(engine) as session, Session(engine) as other:
        shop = Recommender("shop", connection=session)
        shop.recommend(1)
        changed = session.get_one(Product, 5)
        other.execute(text("select from product where id = 5 for update"))
        changed.title = "new"
        waits = threading.Timer(0.5, other.rollback)
        waits.start()

        page = shop.recommend(1, timeout_ms=300)

        waits.join()
        assert page.degraded is None
        assert session.scalar(select(Product.title).where(Product.id == 5)) == "new"


def test_nothing_is_sent_without_a_connection(engine: Engine) -> None:
    """The page is degraded, and what the session holds is still there."""
    small = create_engine(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    shop = Recommender("shop", connection=small)
    with small.connect(), Session(small) as session:
        session.add(Product(id=9_999, shelf=1))

        page = shop.on(session).recommend(1)

        assert page.degraded == "connection busy"
        assert len(session.new) == 1
    small.dispose()


def test_an_error_leaves_the_session_usable_and_its_work_in_place(
    engine: Engine,
) -> None:
    with Session(engine) as session:
        shop = Recommender("shop", connection=session)
        shop.record(1, 5, "view")

        with pytest.raises(SourceError):
            shop.recommend(1, among="select nothing from nowhere")
        with pytest.raises(SourceError):
            shop.recommend(1, among=select(Product.id).where(text("1 / 0 = 1")))

        assert session.scalar(EVENTS) == 361


def test_a_session_that_waits_for_its_rollback_says_so(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Product(id=1, shelf=1))
        with pytest.raises(IntegrityError):
            session.flush()

        with pytest.raises(SessionUnusable) as error, SessionSource(session).use():
            pass

        session.rollback()
        assert len(Recommender("shop", connection=session).recommend(1, k=2)) == 2
    assert error.value.reason == "aborted transaction"


def test_an_engine_commits_by_itself_and_leaves_the_pool_as_it_was(
    engine: Engine,
) -> None:
    shop = Recommender("shop", connection=engine)

    shop.recommend(1, k=3)
    shop.record(1, 5, "view")

    assert engine.pool.checkedout() == 0
    with engine.connect() as conn:
        driver = conn.connection.driver_connection
        assert driver.autocommit is False
        assert conn.scalar(EVENTS) == 361
        conn.execute(text("delete from event"))
        conn.rollback()
        assert conn.scalar(EVENTS) == 361


def test_an_engine_survives_the_end_of_all_its_connections(
    engine: Engine, shop_dsn: str
) -> None:
    shop = Recommender("shop", connection=engine, fallback=False)
    with engine.connect(), engine.connect(), engine.connect(), engine.connect():
        pass
    before = shop.recommend(1, k=3).ids
    with psycopg.connect(shop_dsn) as conn:
        conn.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )

    assert shop.recommend(1, k=3).ids == before


def test_a_lost_connection_is_given_up(engine: Engine) -> None:
    lending = EngineSource(engine)
    with lending.use() as conn:
        first = conn.info.backend_pid

    with pytest.raises(ConnectionLost), lending.use() as conn:
        conn.execute("select pg_terminate_backend(pg_backend_pid())")

    with lending.use() as conn:
        assert conn.info.backend_pid != first
    assert engine.pool.checkedout() == 0


def test_an_exhausted_pool_is_busy_not_broken(engine: Engine) -> None:
    small = create_engine(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.1)

    with (
        small.connect(),
        pytest.raises(SessionUnusable) as error,
        EngineSource(small).use(),
    ):
        pass

    assert error.value.reason == "connection busy"
    small.dispose()


def test_threads_share_an_engine(engine: Engine) -> None:
    shop = Recommender("shop", connection=engine)
    wanted = {user: shop.recommend(user, k=5).ids for user in range(1, 9)}
    found = {}

    def ask(user: int) -> None:
        for _ in range(5):
            found[user] = shop.recommend(user, k=5).ids

    threads = [threading.Thread(target=ask, args=(user,)) for user in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == wanted


def test_a_child_of_a_fork_begins_a_pool_of_its_own(engine: Engine) -> None:
    lending = EngineSource(engine)
    with lending.use() as conn:
        pid = conn.info.backend_pid

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with lending.use() as conn:
                code = 0 if conn.info.backend_pid != pid else 3
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with lending.use() as conn:
        assert conn.execute("select pg_backend_pid()").fetchone() == (pid,)


def test_nothing_connects_before_the_first_request() -> None:
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nowhere")

    for lent in (engine, Session(engine)):
        shop = Recommender("shop", connection=lent)
        with pytest.raises(DatabaseUnavailable), source(lent).use():
            pass
        shop.close()


def test_the_background_writer_finds_the_same_database(engine: Engine) -> None:
    with Session(engine) as session:
        shop = Recommender("shop", connection=session, impressions="background")
        page = shop.recommend(1, k=3)
        shop.close()

        logged = session.execute(text("select request_id from recsys.impression"))
        assert logged.scalars().all() == [page.request_id]


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (
            URL.create(
                "postgresql+psycopg", "o'x", "p@ss w/%:'\\", "db.example", 6432, "my db"
            ),
            {
                "user": "o'x",
                "password": "p@ss w/%:'\\",
                "host": "db.example",
                "port": "6432",
                "dbname": "my db",
            },
        ),
        ("postgresql+psycopg://", {}),
        (
            "postgresql+psycopg:///shop?host=/run/pg&sslmode=require",
            {"dbname": "shop", "host": "/run/pg", "sslmode": "require"},
        ),
        (
            "postgresql+psycopg:///shop?host=a:1&host=b:2",
            {"dbname": "shop", "host": "a,b", "port": "1,2"},
        ),
    ],
)
def test_a_url_is_a_connection_string(url: str | URL, wanted: dict[str, str]) -> None:
    found = source(create_engine(url)).dsn()

    assert conninfo_to_dict(found) == wanted


@pytest.mark.parametrize(
    "lent",
    [
        create_engine("sqlite://"),
        sessionmaker(),
        select(1),
    ],
    ids=["sqlite", "sessionmaker", "select"],
)
def test_what_lends_no_psycopg_connection_is_refused(lent: object) -> None:
    with pytest.raises(ConfigError) as error:
        Recommender("shop", connection=lent)

    assert error.value.hint


def test_a_session_on_another_driver_is_refused_when_it_is_asked() -> None:
    with Session(create_engine("sqlite://")) as session:
        shop = Recommender("shop", connection=session)

        with pytest.raises(ConfigError, match="sqlite through pysqlite"):
            shop.recommend(1)


def test_the_url_that_psycopg_3_needs_is_named() -> None:
    with pytest.raises(ConfigError, match="through pysqlite") as error:
        Recommender("shop", connection=create_engine("sqlite://"))

    assert "SQLALCHEMY_DATABASE_URI" in error.value.hint
    assert "postgresql+psycopg://" in error.value.hint


def test_a_session_of_an_asynchronous_engine_is_refused(engine: Engine) -> None:
    @event.listens_for(engine, "do_connect")
    def without_greenlet(*_: object) -> None:
        raise MissingGreenlet("as an async engine does, outside of its loop")

    engine.dispose()
    with Session(engine) as session, pytest.raises(ConfigError, match="asynchronous"):
        Recommender("shop", connection=session).recommend(1)


def test_a_session_on_several_databases_is_told_which(engine: Engine) -> None:
    with Session(binds={Product: engine}) as session:
        with pytest.raises(ConfigError) as error, SessionSource(session).use():
            pass
        lent = SessionSource(session, mapper=Product)

        page = Recommender("shop", connection=lent).recommend(1, k=2)

    assert "SessionSource(session, " in error.value.hint
    assert len(page) == 2


def test_on_another_session_everything_loaded_is_shared(engine: Engine) -> None:
    base = Recommender("shop", connection=engine)
    wanted = base.recommend(1, k=3).ids

    with Session(engine) as session:
        assert base.on(session).recommend(1, k=3).ids == wanted
        assert session.in_transaction()


# instances ---------------------------------------------------------------------------


def page_of(*items: int) -> Page:
    return Page(tuple(Recommendation(i, 1.0) for i in items), uuid4(), "shop", 1)


def test_objects_come_in_the_order_of_the_page(engine: Engine) -> None:
    with Session(engine) as session:
        page = Recommender("shop", connection=session).recommend(1, k=20)

        found = instances(session, page, Product)

    assert [one.id for one in found] == page.ids


def test_items_without_a_row_are_left_out(engine: Engine) -> None:
    with Session(engine) as session:
        few = select(Product).where(Product.shelf < 100)

        assert [p.id for p in instances(session, page_of(9, 999, 150, 3), few)] == [
            9,
            3,
        ]
        assert instances(session, page_of(), Product) == []


@pytest.mark.parametrize("type_", [Uuid(as_uuid=False), Uuid(), Text()])
def test_uuids_are_found_however_they_are_kept(
    engine: Engine, type_: TypeEngine[Any]
) -> None:
    class Own(DeclarativeBase):
        pass

    class Thing(Own):
        __tablename__ = "thing"
        id: Mapped[Any] = mapped_column(type_, primary_key=True)

    ids = [uuid4() for _ in range(3)]
    Own.metadata.create_all(engine)
    with Session(engine) as session:
        kind = type_.python_type
        session.add_all(Thing(id=kind(str(one))) for one in ids)
        session.flush()

        found = instances(session, page_of(*ids), Thing)

        assert [str(one.id) for one in found] == [str(one) for one in ids]
        session.rollback()
    Own.metadata.drop_all(engine)


def test_what_is_loaded_along_is_the_querys(engine: Engine) -> None:
    with Session(engine) as session:
        query = select(Product).options(joinedload(Product.events))

        found = instances(session, page_of(5, 2), query)
        session.expunge_all()

        assert [p.id for p in found] == [5, 2]
        assert all(isinstance(e, Event) for p in found for e in p.events)


def test_a_key_of_several_columns_has_to_be_named(engine: Engine) -> None:
    with Session(engine) as session:
        with pytest.raises(ConfigError, match="several columns"):
            instances(session, page_of(5), Event)
        with pytest.raises(ConfigError, match="mapped class"):
            instances(session, page_of(5), select(Product.id))

        found = instances(session, page_of(5), Event, key=Event.product_id)

    assert found[0].product_id == 5


# when there is no answer ------------------------------------------------------------


def test_an_exhausted_pool_gives_a_degraded_page(engine: Engine) -> None:
    small = create_engine(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    shop = Recommender("shop", connection=small)
    good = shop.recommend(1, k=3)

    with small.connect():
        page = shop.recommend(1, k=3)

    assert page.degraded == "connection busy"
    assert page.ids == good.ids
    small.dispose()


def test_a_budget_leaves_the_sessions_transaction_usable(engine: Engine) -> None:
    with Session(engine) as session:
        shop = Recommender("shop", connection=session, timeout_ms=300)
        shop.recommend(1, k=3)
        shop.record(1, 5, "view")
        slow = select(Product.id).where(func.pg_sleep(2).is_not(None))

        page = shop.recommend(1, k=3, among=slow)

        assert page.degraded == "timeout"
        assert page.ids == []
        assert session.scalar(EVENTS) == 361


def test_a_session_that_failed_gives_a_degraded_page(engine: Engine) -> None:
    with Session(engine) as session:
        shop = Recommender("shop", connection=session)
        good = shop.recommend(1, k=3)
        session.add(Product(id=1, shelf=1))
        with pytest.raises(IntegrityError):
            session.flush()

        page = shop.recommend(1, k=3)

        assert page.degraded == "aborted transaction"
        assert page.ids == good.ids
