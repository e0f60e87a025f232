"""The command that compares two versions."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from recsys import compare as comparing
from recsys import evaluate, versions
from recsys._db import connect
from recsys.cli import _page
from recsys.cli._options import Moment
from recsys.cli.bars import Bars, say
from recsys.cli.output import Row, format_option, write_rows
from recsys.compare import Comparison, Gate
from recsys.errors import ConfigError
from recsys.settings import Settings

_DEFAULT = Gate()
METRIC_COLUMNS = (
    "metric", "base", "candidate", "difference", "low", "high", "popular",
)  # fmt: skip


@click.command("compare")
@click.argument("model")
@click.argument("number", type=int)
@click.argument("base", type=int, required=False)
@click.option("--after", type=Moment(), help="Histories end and hits begin there.")
@click.option("--holdout", type=click.Path(path_type=Path), help="user_id,item_id CSV.")
@click.option("-k", default=20, show_default=True, help="List length, 1 to 1000.")
@click.option(
    "--users", default=comparing.MAX_USERS, show_default=True, help="At most so many."
)
@click.option("--seed", default=0, show_default=True, help="Of the sample of users.")
@click.option(
    "--max-drop", default=_DEFAULT.max_drop, show_default=True,
    help="Largest relative loss of NDCG that passes.",
)  # fmt: skip
@click.option(
    "--min-coverage", default=_DEFAULT.min_coverage, show_default=True,
    help="Smallest coverage, as a share of the base's.",
)  # fmt: skip
@click.option(
    "--max-latency", default=_DEFAULT.max_latency, show_default=True,
    help="Largest p99 latency, as a multiple of the base's.",
)  # fmt: skip
@click.option(
    "--min-users", default=_DEFAULT.min_users, show_default=True,
    help="Fewer users never pass.",
)  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path), help="Also write a page.")
@click.option("--no-store", is_flag=True, help="Only look; promote will not know.")
@format_option
@click.pass_obj
def compare(
    settings: Settings,
    model: str,
    number: int,
    base: int | None,
    after: datetime | None,
    holdout: Path | None,
    k: int,
    users: int,
    seed: int,
    max_drop: float,
    min_coverage: float,
    max_latency: float,
    min_users: int,
    html: Path | None,
    no_store: bool,
    fmt: str,
) -> None:
    """Compare version NUMBER of MODEL with BASE (default: the serving version).

    Both answer the same users; what these did later counts. 'recsys promote' needs a
    comparison that passed.

    Example:

    \b
        recsys compare shop 2
        recsys compare shop 2 1 --after 2026-03-01 --html compare.html
    """
    if holdout is not None and after is not None:
        raise ConfigError("pass either --holdout FILE or --after TIME")
    gate = Gate(max_drop, min_coverage, max_latency, min_users=min_users)
    with connect(settings.dsn) as conn:
        config = versions.get(conn, model, number).config
        hits = evaluate.from_csv(holdout, config) if holdout is not None else None
        conn.commit()
        found = comparing.compare(
            conn, model, number, base,
            cutoff=after, holdout=hits, k=k, max_users=users, seed=seed, gate=gate,
            progress=Bars(),
        )  # fmt: skip
        if not no_store:
            comparing.store(conn, found)
            conn.commit()
        if html is not None:
            _page.write(html, found, _page.titles(conn, config, found))
    write_rows(_rows(found), fmt, columns=METRIC_COLUMNS)
    say(_summary(found))
    if html is not None:
        say(f"Wrote {html}")


def _rows(found: Comparison) -> list[Row]:
    return [
        {
            "metric": name,
            "base": paired.base,
            "candidate": paired.candidate,
            "difference": paired.difference,
            "low": paired.low,
            "high": paired.high,
            "popular": paired.popular,
        }
        for name, paired in found.metrics.items()
    ]


def _summary(found: Comparison) -> str:
    hits = f"{found.hits:,} hit{'' if found.hits == 1 else 's'}"
    return (
        f"{found.model} version {found.number} {found.verdict} ({hits}, k = {found.k})"
    )
