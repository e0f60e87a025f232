"""recsys inside Flask: what a view sees, stores and leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from secrets import token_urlsafe
from uuid import UUID

import flask_shop_app as shop_app
import psycopg
import pytest
from flask import Flask, g, session
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from recsys import Recommender, _own
from recsys.errors import ConfigError
from recsys.flask import Recsys, Touch, _visitor


def events(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        return conn.execute("select count(*) from event").fetchone()[0]


# a visitor ---------------------------------------------------------------------------


def test_what_an_anonymous_visitor_looks_at_changes_what_they_see(app: Flask) -> None:
    client, other = app.test_client(), app.test_client()
    first = client.get("/").json["ids"]

    client.get(f"/product/{first[0]}")

    second = client.get("/").json["ids"]
    assert first[0] not in second
    assert second != first[1:]
    assert other.get("/").json["ids"] == first


def test_an_anonymous_visitor_gets_one_key_with_the_first_click(app: Flask) -> None:
    client = app.test_client()
    before = client.get("/").json["unit"]
    client.get("/product/3")

    keys = {client.get("/").json["unit"] for _ in range(3)}

    assert before is None
    assert len(keys) == 1
    assert None not in keys


def test_the_history_is_newest_first_without_repeats_and_bounded(app: Flask) -> None:
    state = app.extensions["recsys"]
    state.settings = replace(state.settings, session_items=3)
    with app.test_request_context():
        for item in (1, 2, 3, 2, 4):
            shop_app.visitor.record(item, "view")

        assert shop_app.visitor.history == [4, 2, 3]
        assert shop_app.visitor.who["history"] == [4, 2, 3]


@pytest.mark.parametrize("item", ["007", UUID(int=7), 7, "é" * 20])
def test_ids_keep_their_type_in_a_cookie(app: Flask, item: object) -> None:
    store = app.session_interface.get_signing_serializer(app)
    with app.test_request_context():
        shop_app.visitor.record(item, "view")
        cookie = store.dumps(dict(session))

    with app.test_request_context(headers={"Cookie": f"session={cookie}"}):
        assert shop_app.visitor.history == [item]


def test_a_cookie_never_grows_beyond_what_browsers_keep(app: Flask) -> None:
    store = app.session_interface.get_signing_serializer(app)
    with app.test_request_context():
        for _ in range(60):
            shop_app.visitor.record(token_urlsafe(60), "view")

        assert len(shop_app.visitor.history) > 15
        assert len(store.dumps(dict(session))) < 4000


def test_several_models_share_what_a_cookie_holds(app: Flask) -> None:
    store = app.session_interface.get_signing_serializer(app)
    visitors = [shop_app.recsys.visitor(name) for name in ("a", "b", "c")]
    with app.test_request_context():
        for _ in range(60):
            for visitor in visitors:
                visitor.record(token_urlsafe(60), "view")

        assert len(store.dumps(dict(session))) < 4000
        assert all(len(visitor.history) > 3 for visitor in visitors)


@pytest.mark.parametrize(
    "kept",
    [
        "junk",
        7,
        {"unit": 3, "items.shop": "x"},
        {"items.shop": [None, [], ["x"], [3], 1.5]},
    ],
)
def test_a_session_of_another_release_is_no_reason_to_fail(
    app: Flask, kept: object
) -> None:
    client = app.test_client()
    with client.session_transaction() as stored:
        stored["recsys"] = kept

    assert len(client.get("/").json["ids"]) == 5
    assert client.get("/product/3").status_code == 200


def test_reading_stores_nothing_in_the_session(app: Flask) -> None:
    with app.test_request_context():
        shop_app.visitor.recommend(k=2)
        shop_app.visitor.forget()

        assert shop_app.visitor.history == []
        assert "recsys" not in session


def test_a_thing_that_is_no_id_is_refused(app: Flask) -> None:
    with app.test_request_context(), pytest.raises(ConfigError, match="item_id"):
        shop_app.visitor.record(1.5, "view")


# a user ------------------------------------------------------------------------------


def test_what_a_user_does_is_committed_with_the_view(app: Flask, shop_dsn: str) -> None:
    client = app.test_client()
    client.get("/login/7")
    before = client.get("/").json
    assert before["unit"] == "7"

    client.get(f"/product/{before['ids'][0]}?from={before['request_id']}")

    assert events(shop_dsn) == 361
    assert before["ids"][0] not in client.get("/").json["ids"]
    with psycopg.connect(shop_dsn) as conn:
        rows = conn.execute("select request_id, user_id from recsys.outcome").fetchall()
    assert rows == [(UUID(before["request_id"]), "7")]


def test_a_view_that_fails_stores_nothing(app: Flask, shop_dsn: str) -> None:
    client = app.test_client()
    client.get("/login/7")

    assert client.get("/product/5?fail=1").status_code == 500

    assert events(shop_dsn) == 360


@pytest.mark.parametrize("given", ["", "nonsense", "' or 1=1", "7" * 50])
def test_a_mangled_request_id_does_no_harm(
    app: Flask, shop_dsn: str, given: str
) -> None:
    client = app.test_client()
    client.get("/login/7")

    answer = client.get("/product/5", query_string={"from": given})

    assert answer.status_code == 200
    assert events(shop_dsn) == 361


def test_a_login_takes_the_session_along(app: Flask, shop_dsn: str) -> None:
    client = app.test_client()
    for item in (11, 12, 13, 12):
        client.get(f"/product/{item}")
    client.get("/product/11?kind=cart")
    assert events(shop_dsn) == 360

    assert client.get("/login/30").text == "4"
    assert client.get("/login/30").text == "0"

    with psycopg.connect(shop_dsn) as conn:
        rows = conn.execute(
            "select product_id, kind from event where customer_id = 30"
            " and created_at > now() - interval '1 minute' order by ctid"
        ).fetchall()
    assert rows == [(11, "view"), (13, "view"), (12, "view"), (11, "cart")]


def test_what_cannot_be_handed_over_does_not_fail_the_login(
    app: Flask, shop_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = app.test_client()
    client.get("/product/11?kind=stare")
    client.get("/product/12")

    assert client.get("/login/30").text == "1"

    assert "item 11 of a session was not recorded" in caplog.text
    assert events(shop_dsn) == 361


def test_an_anonymous_visitor_has_nobody_to_hand_over_to(app: Flask) -> None:
    with app.test_request_context():
        shop_app.visitor.record(5, "view")

        assert shop_app.visitor.hand_over() == 0
        assert shop_app.visitor.history == [5]


# connections -------------------------------------------------------------------------


def test_a_request_is_on_the_session_of_the_application(app: Flask) -> None:
    with app.app_context():
        before = shop_app.shop.recommend(7, k=5).ids
        shop_app.db.session.execute(
            shop_app.db.text("update product set price = 0 where id = :id"),
            {"id": before[0]},
        )
        cheap = shop_app.Product.query.with_entities(shop_app.Product.id)

        page = shop_app.shop.recommend(7, k=5, among=cheap.filter_by(price=0))

        assert page.ids == before[:1]
        shop_app.db.session.rollback()


def test_requests_leave_no_connection_behind(app: Flask) -> None:
    for _ in range(3):
        app.test_client().get("/")

    with app.app_context():
        assert shop_app.db.engine.pool.checkedout() == 0
        assert shop_app.db.engine.pool.checkedin() == 1


def test_everything_loaded_is_shared_by_the_requests(app: Flask) -> None:
    with app.app_context():
        first = shop_app.shop.recommend(7, k=1)
        engine = shop_app.shop._engine
    with app.app_context():
        shop_app.shop.recommend(7, k=1)

        assert shop_app.shop._engine is engine
        assert isinstance(shop_app.shop, Recommender)
    assert first.version == 1


def test_without_a_db_connections_are_recsys_own(shop_dsn: str) -> None:
    app = Flask("bare")
    app.config["RECSYS_DSN"] = shop_dsn
    recsys = Recsys(app)
    shop = recsys.recommender("shop")

    with app.app_context():
        shop.record(7, 5, "view")

        assert events(shop_dsn) == 361
        assert isinstance(shop._source, _own.OwnConnections)
        shop.close()


def test_a_dsn_of_its_own_wins_over_the_applications_session(
    app: Flask, shop_dsn: str
) -> None:
    own = shop_app.make(
        SQLALCHEMY_DATABASE_URI="postgresql+psycopg://nowhere", RECSYS_DSN=shop_dsn
    )

    with own.app_context():
        assert len(shop_app.shop.recommend(7, k=2)) == 2
        shop_app.shop.close()


def test_an_engine_or_a_plain_session_will_do_as_db(shop_dsn: str) -> None:
    engine = create_engine(shop_app.url_of(shop_dsn))
    with Session(engine) as plain:
        for db in (engine, plain):
            app = Flask("plain")
            recsys = Recsys(app, db)

            with app.app_context():
                assert len(recsys.recommender("shop").recommend(7, k=2)) == 2
    engine.dispose()


def test_a_db_with_a_session_per_context_is_asked_each_time(shop_dsn: str) -> None:
    class Each:
        """Such as Flask-SQLAlchemy-Lite."""

        @property
        def session(self) -> Session:
            return g.setdefault("session", Session(engine))

    engine = create_engine(shop_app.url_of(shop_dsn))
    app = Flask("each")
    shop = Recsys(app, Each()).recommender("shop")

    for _ in range(2):
        with app.app_context():
            shop.recommend(7, k=1)

            assert g.session.in_transaction()
            g.session.close()
    engine.dispose()


def test_threads_answer_side_by_side(app: Flask) -> None:
    wanted = app.test_client().get("/").json["ids"]
    found = []

    def ask() -> None:
        client = app.test_client()
        found.extend(client.get("/").json["ids"] == wanted for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [True] * 30


def test_two_applications_share_one_extension(app: Flask, shop_dsn: str) -> None:
    db = SQLAlchemy()
    recsys = Recsys()
    apps = []
    for impressions in ("off", "transaction"):
        one = Flask(f"app-{impressions}")
        one.config.update(
            SQLALCHEMY_DATABASE_URI=shop_app.url_of(shop_dsn),
            RECSYS_IMPRESSIONS=impressions,
        )
        db.init_app(one)
        recsys.init_app(one, db)
        apps.append(one)
    shop = recsys.recommender("shop")

    modes = []
    for one in apps:
        with one.app_context():
            shop.recommend(7, k=1)
            modes.append(shop.impressions.mode)
            db.session.remove()
            db.engine.dispose()

    assert modes == ["off", "transaction"]


# configuration -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("RECSYS_TIMEOUT", 100, "RECSYS_TIMEOUT_MS"),
        ("RECSYS_MODELS", {}, "recsys.toml, and there only"),
        ("RECSYS_COLOUR", "red", "Known: RECSYS_DSN"),
        ("RECSYS_TIMEOUT_MS", "100", "such as 200"),
        ("RECSYS_TIMEOUT_MS", 0.2, "such as 200"),
        ("RECSYS_TIMEOUT_MS", True, "such as 200"),
        ("RECSYS_IMPRESSIONS", "maybe", "One of off"),
        ("RECSYS_READS", "host=replica", "host=replica"),
        ("RECSYS_READS", [7], "host=replica"),
        ("RECSYS_SESSION_ITEMS", 0, ""),
    ],
)
def test_a_wrong_key_is_found_when_the_application_starts(
    key: str, value: object, says: str
) -> None:
    app = Flask("wrong")
    app.config[key] = value

    with pytest.raises(ConfigError, match=key) as error:
        Recsys(app)

    assert says in error.value.hint


def test_keys_without_a_value_are_as_if_not_there() -> None:
    app = Flask("none")
    app.config.update(RECSYS_DSN=None, RECSYS_TIMEOUT_MS=None)

    Recsys(app)

    assert app.extensions["recsys"].settings.dsn is None


def test_outside_of_an_application_flask_says_so() -> None:
    with pytest.raises(RuntimeError, match="application context"):
        shop_app.shop.recommend(7)


def test_an_application_without_the_extension_is_told() -> None:
    with Flask("plain").app_context(), pytest.raises(RuntimeError, match="init_app"):
        shop_app.shop.recommend(7)


def test_starting_an_application_connects_to_nothing_and_loads_little() -> None:
    code = """
import json, sys
from flask import Flask
from recsys.flask import Recsys
app = Flask("x")
app.config["RECSYS_DSN"] = "host=/nowhere"
recsys = Recsys(app)
shop = recsys.recommender("shop")
print(json.dumps(list(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    heavy = {"torch", "alembic", "rich", "onnx", "onnxruntime", "sqlalchemy"}
    assert loaded.isdisjoint(heavy)


def test_what_a_visitor_packs_is_json() -> None:
    touches = [Touch(item, "view", 7) for item in (1, "a", UUID(int=3))]

    packed = json.dumps(_visitor._pack(touches))

    assert _visitor._unpack(json.loads(packed)) == touches
