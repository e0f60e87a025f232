"""Who is signed in, and whether a form is the shop's own."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import abort, g, request, session

from shop.models import Customer, db


def customer() -> Customer | None:
    """Return who is signed in; nobody, where the cookie outlived the customer."""
    if "customer" not in g:
        pk = session.get("customer")
        g.customer = db.session.get(Customer, pk) if pk else None
    return g.customer


def refuse_foreign_forms() -> None:
    """Refuse what a page of another site sends in a visitor's name (CSRF).

    Browsers say where a form comes from; what says nothing is no browser, and carries
    no visitor's cookies. Flask-WTF does the same with a token in each form.
    """
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:
        origin = request.headers.get("Origin")
        own = origin is None or urlsplit(origin).netloc == request.host
    else:
        own = site in ("same-origin", "none")
    if not own:
        abort(403)
