"""System checks: ``manage.py check`` finds a wrong set-up before a request does.

    recsys.E001  RECSYS has an unknown key, a wrong value, or declares models
    recsys.E002  recsys.toml is malformed
    recsys.E003  the database is no PostgreSQL, or Django uses psycopg2 for it
    recsys.E004  RecsysMiddleware stands before the middleware it needs
    recsys.E005  a recommender belongs to no model of recsys.toml
    recsys.E006  the item ids of a recommender are of another type than the model's
    recsys.W001  the database is not at the revision this release needs
    recsys.W002  a model has no version that serves
    recsys.W003  there is no recsys.toml
    recsys.W004  a setting has a name that is not read
    recsys.W005  a password stands in RECSYS['READS']

The first two warnings ask the database: ``manage.py check --database default``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, cast

import psycopg
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections, models
from psycopg.conninfo import conninfo_to_dict

from recsys import config, schema, versions
from recsys.config import IdType, ProjectConfig
from recsys.django import conf
from recsys.django._registry import registered
from recsys.django._source import DjangoSource
from recsys.django._terms import TERMS
from recsys.errors import ConfigError, RecsysError, UnknownModel

_MIDDLEWARE = "recsys.django.middleware.RecsysMiddleware"
_NEEDED = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
)
_HELD_BY: dict[IdType, tuple[type[models.Field[Any, Any]], ...]] = {
    "bigint": (models.IntegerField,),
    "uuid": (models.UUIDField,),
    "text": (models.CharField, models.TextField),
}
"""Type of the item ids -> fields whose values are such ids."""


def register_all() -> None:
    """Register the checks."""
    register(check_settings, "recsys")
    register(check_middleware, "recsys")
    register(check_recommenders, "recsys")
    register(check_database, Tags.database)


def check_settings(**_: Any) -> list[CheckMessage]:
    """RECSYS, recsys.toml and the kind of database."""
    try:
        wrong = conf.complaints(conf.given_mapping())
    except ConfigError as exc:
        return [Error(str(exc), hint=TERMS.of(exc.hint), id="recsys.E001")]
    if wrong:
        return [Error(text, hint=hint, id="recsys.E001") for text, hint in wrong]
    found = [*_misnamed(), *_passwords(), *_toml()]
    wrapper = connections[conf.current().database]
    if wrapper.vendor != "postgresql":
        found.append(
            Error(
                f"recsys needs PostgreSQL; {wrapper.alias!r} is {wrapper.vendor}",
                hint="Name an alias of a PostgreSQL database in RECSYS['DATABASE'].",
                id="recsys.E003",
            )
        )
    elif not _is_psycopg_3():
        found.append(
            Error(
                "Django uses psycopg2 here; recsys needs psycopg 3",
                hint="pip install 'psycopg[binary]'; Django then prefers it.",
                id="recsys.E003",
            )
        )
    return found


def _is_psycopg_3() -> bool:
    found: Any = import_module("django.db.backends.postgresql.psycopg_any")
    return bool(found.is_psycopg3)


def _misnamed() -> Iterator[CheckMessage]:
    """Yield settings that look as if they were meant for RECSYS."""
    for name in dir(settings):
        if not name.isupper() or name == "RECSYS":
            continue
        if name.removeprefix("RECSYS_") in conf.KEYS and name.startswith("RECSYS_"):
            hint = f'Put it into RECSYS = {{"{name.removeprefix("RECSYS_")}": ...}}.'
        elif get_close_matches(name, ["RECSYS"], cutoff=0.8):
            hint = "Did you mean 'RECSYS'?"
        else:
            continue
        yield Warning(f"nothing reads the setting {name}", hint=hint, id="recsys.W004")


def _passwords() -> Iterator[CheckMessage]:
    """Yield replicas whose password Django's debug page would show."""
    for read in conf.current().reads:
        if read in connections.settings:
            continue
        try:
            secret = conninfo_to_dict(read).get("password")
        except psycopg.Error:
            continue
        if secret:
            yield Warning(
                "RECSYS['READS'] holds a password, which a debug page shows in clear",
                hint="Put the replica into DATABASES, and name its alias here.",
                id="recsys.W005",
            )


def _toml() -> Iterator[CheckMessage]:
    path = conf.current().config
    if not path.exists():
        # A web process needs none: what it serves by stands in the database.
        yield Warning(
            f"there is no {path}",
            hint="'manage.py recsys init' writes one; or correct RECSYS['CONFIG'].",
            id="recsys.W003",
        )
        return
    try:
        config.load(path)
    except ConfigError as exc:
        yield Error(str(exc), hint=TERMS.of(exc.hint), id="recsys.E002")


def _project() -> ProjectConfig | None:
    """Return recsys.toml; None where another check says what is wrong."""
    try:
        return config.load(conf.current().config)
    except ConfigError:
        return None


def check_middleware(**_: Any) -> list[CheckMessage]:
    """The middleware that finds the visitor comes after those that find the user."""
    order: Sequence[str] = list(settings.MIDDLEWARE or ())
    if _MIDDLEWARE not in order:
        return []
    after = order[: order.index(_MIDDLEWARE)]
    return [
        Error(
            f"RecsysMiddleware must come after {name.rpartition('.')[2]}",
            hint=f"Move {_MIDDLEWARE!r} to the end of MIDDLEWARE.",
            id="recsys.E004",
        )
        for name in _NEEDED
        if name not in after
        and (name == _NEEDED[0] or "django.contrib.auth" in settings.INSTALLED_APPS)
    ]


def check_recommenders(**_: Any) -> list[CheckMessage]:
    """Every recommender has a model, and items whose ids are of its type."""
    project = _project()
    found: list[CheckMessage] = []
    for shop in registered() if project is not None else ():
        try:
            model = cast("ProjectConfig", project).model(shop.name)
        except ConfigError as exc:
            found.append(Error(str(exc), hint=TERMS.of(exc.hint), id="recsys.E005"))
            continue
        field = shop.value_field
        if not isinstance(field, _HELD_BY[model.item_id]):
            found.append(
                Error(
                    f"the items of {shop.name!r} have ids of type "
                    f"{type(field).__name__}, and the model of type {model.item_id}",
                    hint=f"Set item_id of [model.{shop.name}] in recsys.toml, or "
                    "item_field of recommender().",
                    id="recsys.E006",
                )
            )
    return found


def check_database(
    databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """The schema is there, and every model has a version that serves."""
    try:
        alias = conf.current().database
    except ConfigError:
        return []
    if alias not in (databases or ()) or connections[alias].vendor != "postgresql":
        return []
    if sys.argv[1:2] == ["migrate"]:
        return []  # it asks right before it makes what is missing
    try:
        with DjangoSource(alias).use() as conn:
            schema.check(conn)
            return [*_serving(conn)]
    except (RecsysError, psycopg.Error) as exc:
        return [
            Warning(
                str(exc),
                hint=TERMS.of(getattr(exc, "hint", "") or "Run 'recsys doctor'."),
                id="recsys.W001",
            )
        ]


def _serving(conn: Any) -> Iterator[CheckMessage]:
    project = _project()
    for name in project.models if project is not None else ():
        try:
            if versions.serving_number(conn, name) is not None:
                continue
            found = versions.list_versions(conn, name)
        except UnknownModel:
            found = []
        ready = [one.number for one in found if one.state == "ready"]
        yield Warning(
            f"no version of the model {name!r} serves",
            hint=f"manage.py recsys promote {name} {ready[0]}"
            if ready
            else f"manage.py recsys train {name} --apply; then manage.py recsys "
            f"promote {name} NUMBER, with the number that it prints.",
            id="recsys.W002",
        )
