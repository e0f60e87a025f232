"""The command that writes a version's report."""

from __future__ import annotations

from pathlib import Path

import click

from recsys import versions
from recsys._db import connect
from recsys.cli.bars import say
from recsys.report import facts, page, verdict
from recsys.settings import Settings


@click.command()
@click.argument("model")
@click.argument("number", type=int, required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Default: MODEL_N.html.")
@click.option("--study", type=click.Path(path_type=Path), help="Also show its trials.")
@click.option("--no-user-ids", is_flag=True, help="Do not say whose the lists are.")
@click.pass_obj
def report(
    settings: Settings,
    model: str,
    number: int | None,
    out: Path | None,
    study: Path | None,
    no_user_ids: bool,
) -> None:
    """Write what the training of a version of MODEL (default: the newest) did.

    One HTML file without anything to load: curves, health, parts, lists to look at.

    Example:

    \b
        recsys report shop
        recsys report shop 2 --out report.html --study shop.study
        recsys report shop 2 --no-user-ids
    """
    with connect(settings.dsn) as conn:
        if number is None:
            number = versions.newest(conn, model)
            say(_newest(number, versions.serving_number(conn, model)))
        found = facts.collect(
            conn, model, number, study=study, user_ids=not no_user_ids
        )
    path = out or Path(f"{model}_{number}.html")
    page.write(path, found)
    for one in verdict.verdicts(found.report) if found.report else ():
        say(f"{model} {number}: {one}")
    say(f"Wrote {path}")


def _newest(number: int, serving: int | None) -> str:
    """Say which version a report without a number is of."""
    if serving is None:
        return f"Version {number}: the newest; none serves"
    if serving == number:
        return f"Version {number}: the newest, and the base that serves"
    return f"Version {number}: the newest; the base is version {serving}"
