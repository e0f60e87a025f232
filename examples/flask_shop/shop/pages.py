"""The shop's pages."""

from __future__ import annotations

from flask import (
    Blueprint,
    abort,
    flash,
    g,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from sqlalchemy import ColumnElement, Select, func, literal, select
from werkzeug.exceptions import HTTPException
from werkzeug.security import check_password_hash
from werkzeug.wrappers import Response

from recsys.errors import UnknownItem
from recsys.rules import Rules
from recsys.sqlalchemy import instances
from shop.catalogue import DEPARTMENTS, SHOPPERS
from shop.models import Category, Customer, Event, Product, db
from shop.recommenders import shop, visitor

bp = Blueprint("shop", __name__)

PER_PAGE = 24
PRICES = ("25", "50", "100", "250")
# Whose pictures stand on the home page.
STAGE = (16, 49, 6)
TILES = {
    "trail": 1,
    "coffee": 54,
    "desk": 106,
    "plants": 133,
    "kitchen": 67,
    "ride": 93,
}
IN_STOCK = select(Product.id).where(Product.in_stock)
# Some of everything: at most two of a category on the home page.
VARIED = Rules(at_most=2, per=select(Product.id, Product.category_id))


@bp.get("/")
def home() -> str:
    """Show what this visitor may like: it changes with every product they look at."""
    page = visitor.recommend(k=12, among=IN_STOCK, rules=VARIED)
    newest = select(Product).where(Product.in_stock).order_by(Product.created_at.desc())
    shown = {p.id: p for p in _products([*STAGE, *TILES.values()])}
    return render_template(
        "home.html",
        for_you=instances(db.session, page, Product),
        request_id=page.request_id,
        seen=_seen(),
        new=db.session.scalars(newest.limit(6)).all(),
        stage=[shown[pk] for pk in STAGE if pk in shown],
        tiles=[(slug, shown.get(pk)) for slug, pk in TILES.items()],
    )


@bp.get("/product/<int(max=2147483647):pk>/")
def product(pk: int) -> str:
    """Show one product, products like it, and what else this visitor may like."""
    shown = db.get_or_404(Product, pk)
    # For a visitor who is not signed in, it is remembered in the session.
    visitor.record(pk, "view", request_id=request.args.get("from"))
    db.session.commit()
    try:
        similar = shop.similar_items(
            pk, k=6, unit=visitor.unit, among=IN_STOCK, boost=_same_shelf(shown)
        )
    except UnknownItem:  # so new that the worker has not come to it
        similar = None
    exclude = [pk, *(similar.ids if similar else ())]
    for_you = visitor.recommend(k=6, among=IN_STOCK, exclude=exclude)
    return render_template(
        "product.html",
        product=shown,
        similar=instances(db.session, similar, Product) if similar else [],
        similar_id=similar.request_id if similar else None,
        for_you=instances(db.session, for_you, Product),
        for_you_id=for_you.request_id,
    )


@bp.post("/product/<int(max=2147483647):pk>/basket/")
def basket(pk: int) -> Response:
    """Put a product into the basket: a stronger sign of taste than a view."""
    wanted = db.get_or_404(Product, pk)
    visitor.record(pk, "cart", request_id=request.form.get("from"))
    db.session.commit()
    flash(f"{wanted.name} is in your basket.")
    return redirect(url_for(".product", pk=pk))


@bp.get("/department/<slug>/")
def department(slug: str) -> str:
    """Show a department, in the order of this visitor's taste."""
    if slug not in DEPARTMENTS:
        abort(404)
    title, line = DEPARTMENTS[slug]
    products = select(Product).join(Category).where(Category.department == slug)
    shelves = select(Category).where(Category.department == slug)
    categories = db.session.scalars(shelves.order_by(Category.name)).all()
    chosen = request.args.get("category", "")
    if chosen in {category.slug for category in categories}:
        products = products.where(Category.slug == chosen)
    else:
        chosen = ""
    return _listing(
        products,
        title=title,
        line=line,
        categories=categories,
        chosen=chosen,
    )


@bp.get("/search/")
def search() -> str:
    """Show what matches some words: Postgres finds, the visitor's taste sorts."""
    words = request.args.get("q", "").replace("\0", "").strip()[:200]
    query = func.websearch_to_tsquery("english", words)
    products = select(Product).where(Product.document.bool_op("@@")(query))
    return _listing(
        products,
        match=func.ts_rank(Product.document, query).desc(),
        title=f"“{words}”" if words else "Search",
        words=words,
    )


def _listing(
    products: Select[tuple[Product]],
    match: ColumnElement[float] | None = None,
    **context: object,
) -> str:
    """Filter and sort a list of products; each page knows what those before showed."""
    if request.args.get("stock"):
        products = products.where(Product.in_stock)
    below = request.args.get("below", "")
    if below in PRICES:
        products = products.where(Product.price < int(below))
    shown = _numbers(request.args.get("shown", ""))
    orders = {"price": Product.price, "new": Product.created_at.desc(), "match": match}
    sort, request_id = request.args.get("sort", ""), None
    if orders.get(sort) is not None:
        ordered = products.order_by(orders[sort], Product.id).offset(len(shown))
        page = db.session.scalars(ordered.limit(PER_PAGE)).all()
    else:
        ids = products.with_only_columns(Product.id)
        answer = visitor.recommend(
            k=PER_PAGE, among=ids, exclude_seen=False, after=shown
        )
        page, request_id = instances(db.session, answer, Product), answer.request_id
    so_far = [*shown, *(product.id for product in page)]
    count = products.with_only_columns(func.count())
    total = db.session.scalar(count) or 0
    return render_template(
        "listing.html",
        page=page,
        request_id=request_id,
        total=total,
        below=below,
        prices=PRICES,
        sort=sort,
        more="-".join(map(str, so_far)) if len(so_far) < total else "",
        **context,
    )


@bp.route("/login/", methods=["GET", "POST"])
def login() -> str | Response:
    """Sign in; what the session holds becomes the customer's."""
    wrong = False
    if request.method == "POST":
        name = request.form.get("username", "").replace("\0", "")
        found = db.session.scalar(select(Customer).where(Customer.name == name))
        if found and check_password_hash(
            found.password, request.form.get("password", "")
        ):
            session["customer"] = found.id
            g.customer = found
            visitor.hand_over()
            db.session.commit()
            return redirect(url_for("admin.home" if found.is_staff else ".home"))
        wrong = True
    return render_template("login.html", shoppers=SHOPPERS, wrong=wrong)


@bp.post("/logout/")
def logout() -> Response:
    """Sign out."""
    session.clear()
    return redirect(url_for(".home"))


def refused(exc: HTTPException) -> tuple[str, int]:
    """Say in the shop's own words that there is no such page, or not for everybody."""
    return render_template("error.html", error=exc), exc.code or 400


def _numbers(text: str) -> list[int]:
    """Read what a page says of those before it; anybody may write anything there."""
    return [int(n) for n in text.split("-") if n.isdecimal() and len(n) < 10]


def _same_shelf(shown: Product) -> Select[tuple[int, float]]:
    """Return a little extra for its own kind: beside a kettle, kettles come first."""
    shelf = Product.category_id == shown.category_id
    return select(Product.id, literal(0.15)).where(shelf)


def _seen() -> list[Product]:
    """Return what this visitor looked at last, newest first."""
    if visitor.user_id is None:
        return _products(visitor.history[:6])
    events = select(Event.product_id).where(Event.customer_id == visitor.user_id)
    latest = db.session.scalars(events.order_by(Event.created_at.desc()).limit(30))
    return _products(list(dict.fromkeys(latest))[:6])


def _products(ids: list[int]) -> list[Product]:
    """Return products in the order of their ids."""
    found = db.session.scalars(select(Product).where(Product.id.in_(ids)))
    by_id = {product.id: product for product in found}
    return [by_id[pk] for pk in ids if pk in by_id]
