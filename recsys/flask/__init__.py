"""Recommendations inside Flask: an extension, a visitor, the command line.

db = SQLAlchemy(app)
recsys = Recsys(app, db)
shop = recsys.recommender("shop")
visitor = recsys.visitor("shop")

page = visitor.recommend(k=12, among=select(Product.id).where(Product.in_stock))
"""

from __future__ import annotations

from recsys.flask._extension import Recsys
from recsys.flask._visitor import Touch, Visitor

__all__ = ["Recsys", "Touch", "Visitor"]
