"""manage.py stock_shop: fill the shelves of the example."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.core.management.base import BaseCommand
from django.db import connection, transaction

from shop import catalogue
from shop.art import drawing
from shop.models import Category, Event, Product


class Command(BaseCommand):
    """Make products, customers and a year of their clicks, unless they are there."""

    help = "Make products, customers and a year of their clicks."

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        """Fill the tables of the shop."""
        if Product.objects.exists():
            return
        made = catalogue.make(catalogue.size())
        self._products(made)
        self._people(made)
        # A hundred thousand rows: COPY is the fast way in.
        target = "shop_event (customer_id, product_id, kind, created_at)"
        with connection.cursor() as cursor:
            with cursor.copy(f"copy {target} from stdin") as copy:
                for row in made.events:
                    copy.write_row(row)
            for model in (Category, Product, get_user_model()):
                table = model._meta.db_table
                cursor.execute(
                    f"select setval(pg_get_serial_sequence('{table}', 'id'), max(id))"
                    f" from {table}"
                )
        self.stdout.write(
            f"{Product.objects.count()} products, {Event.objects.count()} clicks"
        )

    def _products(self, made: catalogue.Shop) -> None:
        Category.objects.bulk_create(
            Category(pk=n, slug=c.slug, name=c.name, department=c.department)
            for n, c in enumerate(catalogue.CATEGORIES, 1)
        )
        Product.objects.bulk_create(
            Product(
                pk=p.id,
                category_id=p.category,
                name=p.name,
                brand=p.brand,
                colour=p.colour,
                swatch=catalogue.COLOURS[p.colour],
                style=p.style,
                description=p.description,
                price=p.price,
                in_stock=p.in_stock,
                created_at=p.created_at,
                picture=drawing(p),
            )
            for p in made.products
        )

    def _people(self, made: catalogue.Shop) -> None:
        people = get_user_model()
        password = make_password("demo")
        people.objects.bulk_create(
            people(
                pk=pk,
                username=name,
                first_name=catalogue.SHOPPERS[name].name if name in catalogue.SHOPPERS
                else "",
                password=password if name in catalogue.SHOPPERS else "!",
                date_joined=joined,
            )
            for pk, name, joined in made.customers
        )  # fmt: skip
        people.objects.create_superuser("admin", password="admin", pk=1_000_000)
