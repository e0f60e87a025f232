"""A shop in Flask as a user would write it: models, extension, views."""

from __future__ import annotations

import psycopg
from flask import Flask, jsonify, request, session
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL, BigInteger, make_url, select
from sqlalchemy.orm import Mapped, mapped_column

from recsys.flask import Recsys

RECORD = (
    "insert into event (customer_id, product_id, kind, created_at)"
    " values (%(user_id)s, %(item_id)s, %(kind)s, %(occurred_at)s)"
)

db = SQLAlchemy()
recsys = Recsys(db=db)
shop = recsys.recommender("shop")
visitor = recsys.visitor("shop")


class Product(db.Model):
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    brand: Mapped[str | None]
    price: Mapped[float | None]


@recsys.user_loader
def user_id() -> int | None:
    return session.get("user_id")


def home():
    few = select(Product.id).where(Product.price < float(request.args.get("most", 1e9)))
    page = visitor.recommend(k=5, among=few)
    return jsonify(ids=page.ids, request_id=str(page.request_id), unit=visitor.unit)


def product(item: int):
    kind = request.args.get("kind", "view")
    visitor.record(item, kind, request_id=request.args.get("from"))
    if request.args.get("fail"):
        raise RuntimeError("the view fails after it has recorded")
    db.session.commit()
    return jsonify(shop.similar_items(item, k=3, unit=visitor.unit).ids)


def login(user: int):
    session["user_id"] = user
    handed = visitor.hand_over()
    db.session.commit()
    return str(handed)


def make(**config: object) -> Flask:
    """Return a fresh application, as a factory does."""
    app = Flask(__name__)
    app.config.update(SECRET_KEY="for tests", **config)
    if "SQLALCHEMY_DATABASE_URI" in config:
        db.init_app(app)
        recsys.init_app(app)
    else:
        bare = Recsys(app)
        bare.user_loader(user_id)
    app.add_url_rule("/", view_func=home)
    app.add_url_rule("/product/<int:item>", view_func=product)
    app.add_url_rule("/login/<int:user>", view_func=login)
    return app


def url_of(dsn: str) -> URL:
    """The URL that SQLAlchemy wants for a database of the tests."""
    parts = dict(psycopg.conninfo.conninfo_to_dict(dsn))
    url = make_url("postgresql+psycopg://").set(
        username=parts.pop("user"), database=parts.pop("dbname")
    )
    return url.update_query_dict({k: str(v) for k, v in parts.items()})
