"""The shop's recommender: part of the request's session and transaction."""

from recsys.flask import Recsys
from shop.accounts import customer
from shop.models import db

recsys = Recsys(db=db)
shop = recsys.recommender("shop")
# Who asks: the customer who is signed in, else the history in flask.session.
visitor = recsys.visitor("shop")


@recsys.user_loader
def customer_id() -> int | None:
    """Return the id of the customer of this request."""
    found = customer()
    return found.id if found else None
