"""For the staff: which version of the model serves, and what is in stock."""

from __future__ import annotations

from flask import (
    Blueprint,
    abort,
    flash,
    redirect,
    render_template,
    request,
    url_for,
)
from sqlalchemy import select
from werkzeug.wrappers import Response

from recsys import rollout
from recsys.errors import RecsysError
from recsys.sqlalchemy import source, views
from shop.accounts import customer
from shop.models import Product, db

bp = Blueprint("admin", __name__, url_prefix="/admin")


@bp.before_request
def staff_only() -> Response | None:
    """Let nobody else in."""
    found = customer()
    if found is None:
        return redirect(url_for("shop.login"))
    if not found.is_staff:
        abort(403)
    return None


@bp.get("/")
def home() -> str:
    """Show the versions of the model and the newest products."""
    status = views.version_status
    versions = select(status).where(status.c.model == "shop")
    newest = select(Product).order_by(Product.created_at.desc()).limit(20)
    return render_template(
        "admin.html",
        versions=db.session.execute(versions.order_by(status.c.number.desc())).all(),
        products=db.session.scalars(newest).all(),
    )


@bp.post("/promote/")
def promote() -> Response:
    """Let a version serve everybody, from this commit on."""
    number = request.form.get("number", type=int)
    reason = request.form.get("reason", "").replace("\0", "").strip()
    # None is a number too: that of the version that ends serving.
    if number is None or not 0 < number < 2**31:
        abort(400, "Which version is to serve?")
    try:
        with source(db.session).use() as conn:
            rollout.promote(conn, "shop", number, reason=reason)
        db.session.commit()
        flash(f"Version {number} serves.")
    except RecsysError as exc:
        db.session.rollback()
        flash(f"{exc}. {exc.hint}")
    return redirect(url_for(".home"))


@bp.post("/stock/<int(max=2147483647):pk>/")
def stock(pk: int) -> Response:
    """Take a product out of stock, or put it back: the filters see it at once."""
    product = db.get_or_404(Product, pk)
    product.in_stock = not product.in_stock
    db.session.commit()
    return redirect(url_for(".home"))
