"""The shop's own tables. None of them knows anything of recommendations."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from flask_sqlalchemy import SQLAlchemy
from markupsafe import Markup
from sqlalchemy import Computed, DateTime, ForeignKey, Index, Numeric, String
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from shop.art import draw


class Base(DeclarativeBase):
    """Base of the tables."""


db = SQLAlchemy(model_class=Base)


def now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(UTC)


class Category(db.Model):
    """A shelf of a department."""

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    department: Mapped[str]


class Product(db.Model):
    """Something for sale."""

    id: Mapped[int] = mapped_column(primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey(Category.id), index=True)
    name: Mapped[str]
    brand: Mapped[str]
    colour: Mapped[str]
    swatch: Mapped[str] = mapped_column(String(7))
    style: Mapped[str]
    description: Mapped[str]
    price: Mapped[Decimal] = mapped_column(Numeric(8, 2))
    in_stock: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=now, index=True
    )
    # A drawing of art.py; a shop of your own has the address of a photograph.
    picture: Mapped[str] = mapped_column(String(30))
    document: Mapped[str] = mapped_column(
        TSVECTOR,
        Computed(
            "to_tsvector('english',"
            " name || ' ' || brand || ' ' || colour || ' ' || description)",
            persisted=True,
        ),
        deferred=True,
    )

    category: Mapped[Category] = relationship(lazy="joined")

    @property
    def art(self) -> Markup:
        """The picture, as a page takes it."""
        label = f"{self.name}, {self.colour.lower()}"
        return Markup(draw(self.picture, self.swatch, label))

    __table_args__ = (Index("product_document", "document", postgresql_using="gin"),)


class Customer(db.Model):
    """Who buys."""

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password: Mapped[str]
    is_staff: Mapped[bool] = mapped_column(default=False)
    joined_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)


class Event(db.Model):
    """What a customer did with a product."""

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey(Customer.id))
    product_id: Mapped[int] = mapped_column(ForeignKey(Product.id), index=True)
    kind: Mapped[str] = mapped_column(String(10))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)

    # A customer's latest events are what a recommendation reads first.
    __table_args__ = (Index("event_of_customer", "customer_id", created_at.desc()),)
