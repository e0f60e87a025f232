"""The shop of world.py as an application on SQLAlchemy maps it."""

from __future__ import annotations

from datetime import datetime

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, BigInteger, DateTime, ForeignKey, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

RECORD = (
    "insert into event (customer_id, product_id, kind, created_at)"
    " values (%(user_id)s, %(item_id)s, %(kind)s, %(occurred_at)s)"
)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    country: Mapped[str | None]


class Product(Base):
    __tablename__ = "product"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    title: Mapped[str | None]
    brand: Mapped[str | None]
    price: Mapped[float | None]
    shelf: Mapped[int]
    events: Mapped[list[Event]] = relationship(back_populates="product")


class Event(Base):
    __tablename__ = "event"

    customer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("product.id"), primary_key=True)
    kind: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), primary_key=True
    )
    product: Mapped[Product] = relationship(back_populates="events")


def url_of(dsn: str) -> URL:
    """The URL that SQLAlchemy wants for a database of the tests."""
    parts = dict(conninfo_to_dict(dsn))
    url = make_url("postgresql+psycopg://").set(
        username=parts.pop("user"), database=parts.pop("dbname")
    )
    return url.update_query_dict({k: str(v) for k, v in parts.items()})
