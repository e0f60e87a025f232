"""The Django project of these tests, and how its settings change.

Django keeps its settings for the life of the process, so they are made once; the
database behind the alias "default" is another one for every test.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import django
from django.conf import settings

FOLDER = Path(__file__).parent
SETTINGS = {
    "SECRET_KEY": "only for tests",
    "BASE_DIR": FOLDER,
    "USE_TZ": True,
    "ALLOWED_HOSTS": ["testserver"],
    "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
    "INSTALLED_APPS": [
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
        "django_store",
        "recsys.django",
    ],
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "recsys.django.middleware.RecsysMiddleware",
    ],
    "ROOT_URLCONF": "django_store.urls",
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
    "DATABASES": {
        "default": {"ENGINE": "django.db.backends.postgresql", "NAME": "unset"},
        "other": {"ENGINE": "django.db.backends.postgresql", "NAME": "unset"},
        "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    },
    "RECSYS": {"CONFIG": "recsys.toml"},
}

if not settings.configured:
    sys.path.insert(0, str(FOLDER))
    settings.configure(**SETTINGS)
    django.setup()


def parts_of(dsn: str) -> dict[str, object]:
    """A connection string as Django wants it."""
    import psycopg

    given = psycopg.conninfo.conninfo_to_dict(dsn)
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password"}
    places = {"HOST": "host", "PORT": "port"}
    return {key: given.get(name, "") for key, name in (names | places).items()}


class Changes:
    """Changes settings, and changes them back."""

    def __init__(self) -> None:
        self._enabled: list[object] = []

    def set(self, **values: object) -> None:
        from django.test import override_settings

        override = override_settings(**values)
        override.enable()
        self._enabled.append(override)

    def undo(self) -> None:
        while self._enabled:
            self._enabled.pop().disable()  # type: ignore[attr-defined]


def point(alias: str, dsn: str) -> None:
    """Let an alias be another database from now on."""
    from django.db import connections

    from recsys.django import reset

    reset()
    connections[alias].close()
    connections[alias].settings_dict.update(parts_of(dsn))
    connections.settings[alias].update(parts_of(dsn))


SETTINGS_TOML = textwrap.dedent(
    """
    [model.shop]
    item_id = "bigint"
    user_id = "bigint"

    [model.shop.items]
    sql = "select id as item_id, title, brand, price, created_at from product"
    watch = { product = "id" }

    [model.shop.items.features]
    title = { type = "text", buckets = 64 }
    brand = { type = "category", min_count = 1 }
    price = { type = "number", scale = "log" }

    [model.shop.interactions]
    sql = '''select customer_id as user_id, product_id as item_id,
        created_at as occurred_at, kind from event'''
    weights = { view = 1, cart = 3, purchase = 5 }
    """
)
