"""Commands that ask a model."""

from __future__ import annotations

from typing import Any

import click

from recsys import versions
from recsys._db import connect
from recsys.cli.output import Row, format_option, write_rows
from recsys.config import ModelConfig
from recsys.errors import ConfigError
from recsys.ids import parse_id
from recsys.recommender import Recommender
from recsys.settings import Settings
from recsys.types import Page


def _config(settings: Settings, model: str) -> ModelConfig:
    """Return the configuration of the serving version, or of the newest."""
    with connect(settings.dsn) as conn:
        number = versions.serving_number(conn, model) or versions.newest(conn, model)
        return versions.get(conn, model, number).config


def _rows(page: Page) -> list[Row]:
    return [
        {"rank": rank, "item_id": r.item_id, "score": r.score}
        for rank, r in enumerate(page, 1)
    ]


def _context(pairs: tuple[str, ...]) -> dict[str, Any]:
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--context takes NAME=VALUE, got {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)


@click.command()
@click.argument("model")
@click.argument("user_id", required=False)
@click.option("-k", default=10, show_default=True, help="List length, 1 to 1000.")
@click.option("--history", help="Item ids of a session, newest first, by commas.")
@click.option("--among", help="SQL whose only column lists the eligible item ids.")
@click.option("--context", multiple=True, help="NAME=VALUE, a request-time feature.")
@click.option("--seen", is_flag=True, help="Also return what the user had before.")
@format_option
@click.pass_obj
def recommend(
    settings: Settings,
    model: str,
    user_id: str | None,
    k: int,
    history: str | None,
    among: str | None,
    context: tuple[str, ...],
    seen: bool,
    fmt: str,
) -> None:
    """Recommend items to USER_ID, or to a session given by --history.

    Example:

    \b
        recsys recommend shop 7 -k 5
        recsys recommend shop --history 42,17 --format json
        recsys recommend shop 7 --among "select id from product where price < 50"
    """
    config = _config(settings, model)
    user = None if user_id is None else parse_id("USER_ID", user_id, config.user_id)
    items = None
    if history is not None:
        parts = [part.strip() for part in history.split(",") if part.strip()]
        items = [parse_id("--history", part, config.item_id) for part in parts]
    with Recommender(model, dsn=settings.dsn, fallback=False) as recommender:
        page = recommender.recommend(
            user,
            k=k,
            history=items,
            among=among,
            context=_context(context),
            exclude_seen=not seen,
        )
    write_rows(_rows(page), fmt, columns=("rank", "item_id", "score"))


@click.command()
@click.argument("model")
@click.argument("item_id")
@click.option("-k", default=10, show_default=True, help="List length, 1 to 1000.")
@click.option("--among", help="SQL whose only column lists the eligible item ids.")
@format_option
@click.pass_obj
def similar(
    settings: Settings, model: str, item_id: str, k: int, among: str | None, fmt: str
) -> None:
    """Show the items most like ITEM_ID.

    Example:

    \b
        recsys similar shop 42 -k 5 --format csv
    """
    config = _config(settings, model)
    item = parse_id("ITEM_ID", item_id, config.item_id)
    with Recommender(model, dsn=settings.dsn, fallback=False) as recommender:
        page = recommender.similar_items(item, k=k, among=among)
    write_rows(_rows(page), fmt, columns=("rank", "item_id", "score"))
