"""The example shop as a Flask application."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask

from recsys import embedded
from shop import accounts, admin, pages
from shop.catalogue import DEPARTMENTS
from shop.models import db
from shop.recommenders import recsys

ROOT = Path(__file__).resolve().parent.parent


def create_app() -> Flask:
    """Return the application."""
    # A shop of your own names its server here. This one starts the embedded Postgres,
    # in the nearest .recsys at or above its folder.
    dsn = os.environ.get("SHOP_DSN") or embedded.start(
        embedded.near(ROOT), database="flask_shop"
    )
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=os.environ.get("SHOP_SECRET_KEY", "only for trying things out"),
        # Forms of other sites arrive without the cookie, hence without the user.
        SESSION_COOKIE_SAMESITE="Lax",
        SQLALCHEMY_DATABASE_URI=dsn.replace("postgresql://", "postgresql+psycopg://"),
        # recsys: where the models are declared, and how long a page may wait.
        RECSYS_CONFIG=ROOT / "recsys.toml",
        RECSYS_TIMEOUT_MS=300,
    )
    db.init_app(app)
    recsys.init_app(app)
    app.before_request(accounts.refuse_foreign_forms)
    app.register_blueprint(pages.bp)
    app.register_blueprint(admin.bp)

    @app.context_processor
    def every_page() -> dict[str, object]:
        return {"departments": DEPARTMENTS, "customer": accounts.customer()}

    for code in (400, 403, 404):
        app.register_error_handler(code, pages.refused)
    return app
