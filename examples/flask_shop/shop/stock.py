"""Fill the shelves of the example."""

from __future__ import annotations

from sqlalchemy import func, insert, select, text
from werkzeug.security import generate_password_hash

from shop import catalogue
from shop.art import drawing
from shop.models import Category, Customer, Event, Product, db


def fill() -> str:
    """Make products, customers and a year of their clicks, unless they are there."""
    if not db.session.scalar(select(func.count(Product.id))):
        made = catalogue.make(catalogue.size())
        _products(made)
        _people(made)
        # A hundred thousand rows: COPY is the fast way in.
        driver = db.session.connection().connection.driver_connection
        target = "event (customer_id, product_id, kind, created_at)"
        with driver.cursor().copy(f"copy {target} from stdin") as copy:
            for row in made.events:
                copy.write_row(row)
        for table in ("category", "product", "customer"):
            sequence = f"pg_get_serial_sequence('{table}', 'id')"
            db.session.execute(text(f"select setval({sequence}, max(id)) from {table}"))
        db.session.commit()
    products, clicks = (
        db.session.scalar(select(func.count(table.id))) for table in (Product, Event)
    )
    return f"{products} products, {clicks} clicks"


def _products(made: catalogue.Shop) -> None:
    categories = [
        {"id": n, "slug": c.slug, "name": c.name, "department": c.department}
        for n, c in enumerate(catalogue.CATEGORIES, 1)
    ]
    db.session.execute(insert(Category), categories)
    products = [
        {
            "id": p.id,
            "category_id": p.category,
            "name": p.name,
            "brand": p.brand,
            "colour": p.colour,
            "swatch": catalogue.COLOURS[p.colour],
            "style": p.style,
            "description": p.description,
            "price": p.price,
            "in_stock": p.in_stock,
            "created_at": p.created_at,
            "picture": drawing(p),
        }
        for p in made.products
    ]
    db.session.execute(insert(Product), products)


def _people(made: catalogue.Shop) -> None:
    password = generate_password_hash("demo")
    people = [
        {
            "id": pk,
            "name": name,
            "password": password if name in catalogue.SHOPPERS else "!",
            "is_staff": False,
            "joined_at": joined,
        }
        for pk, name, joined in made.customers
    ]
    admin = {
        "id": 1_000_000,
        "name": "admin",
        "password": generate_password_hash("admin"),
        "is_staff": True,
        "joined_at": people[0]["joined_at"],
    }
    db.session.execute(insert(Customer), [*people, admin])
