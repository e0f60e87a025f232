"""What the demo prints at the end, on stdout: numbers, three users, SQL, commands."""

from __future__ import annotations

import shutil
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recsys import _sql
from recsys._db import Connection, Halfvec, PackedDumper, connect
from recsys._preset import Preset
from recsys._wording import counted
from recsys.config import ModelConfig
from recsys.evaluate import Evaluation, Holdout
from recsys.recommender import Recommender
from recsys.types import ItemId, UserId

_LENGTH = 8
_PAST = 6
_LOOKED_AT = 200
_WIDTH = 100
_ORDER = ("re", "nd", "hr")
_METHODS = {
    "model": "this model, as served",
    "exact": "this model, exact scan",
    "popular_30d": "popular in the last 30 days",
    "most_popular": "most popular, all time",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One user on the day of the cut-off.

    Attributes:
        user: The user.
        past: What they did before, newest first.
        page: What is recommended, best first.
        later: What they really took later.
    """

    user: UserId
    past: Sequence[ItemId]
    page: Sequence[ItemId]
    later: frozenset[ItemId]

    @property
    def hits(self) -> int:
        """How many of the recommendations they took."""
        return len(self.later.intersection(self.page))


def show(
    dsn: str,
    config: ModelConfig,
    preset: Preset,
    number: int,
    holdout: Holdout,
    evaluation: Evaluation,
) -> Case:
    """Print the evaluation, three users, similar items, and the same in SQL.

    Returns:
        The first of the users.
    """
    out = _console()
    out.print()
    _metrics(out, preset, number, evaluation)
    with (
        connect(dsn) as conn,
        Recommender(preset.model, connection=conn, fallback=False) as model,
    ):
        cases = _cases(conn, model, holdout)
        chosen = sorted(cases, key=lambda case: case.hits == 0)[:3]
        titles = _titles(conn, preset, chosen)
        good = sum(case.hits > 0 for case in cases)
        out.print(
            f"Three users on that day, among the {good} of {len(cases)} looked at for "
            f"whom at least one of the\nfirst {_LENGTH} was right ([green]✓[/green]: "
            "they took it later, for the first time)\n"
        )
        for case in chosen:
            _user(out, case, titles)
        _similar(out, conn, model, preset, chosen[0])
        _in_sql(out, conn, preset, config, chosen[0])
    return chosen[0]


def commands(
    preset: Preset, case: Case, *, dsn: str | None, config: Path | None
) -> None:
    """Print what to type next; ``dsn`` when the shell does not know the server yet."""
    out = _console(soft_wrap=True)
    model, user, item = preset.model, case.user, case.page[0]
    out.print("[bold]Next, in this shell[/bold]\n")
    lines: list[str] = []
    if config is not None:
        lines.append(f"export RECSYS_CONFIG={config.resolve()}")
    if dsn is not None:
        lines.insert(0, f"export RECSYS_DSN='{dsn}'")
    if shutil.which("recsys") is None:
        lines.insert(0, f"source {Path(sys.prefix) / 'bin' / 'activate'}")
    lines.append(f"recsys recommend {model} {user} -k 5")
    if preset.among:
        lines.append(f'recsys recommend {model} {user} -k 5 --among "{preset.among}"')
    lines += [
        f"recsys similar {model} {item} -k 5 --format json",
        "recsys status",
        f"recsys watch {model} && recsys worker --drain  # changes of items",
        *_second_version(model, preset),
        "recsys doctor",
    ]
    if shutil.which("psql"):
        lines.append('psql "$RECSYS_DSN"' if dsn else "psql")
    for line in lines:
        out.print(Text(f"  {line}"))
    if dsn is not None:
        out.print("\n[dim]The embedded server goes on running. To stop it:[/dim]\n")
        out.print(Text("  recsys demo --stop"))


def _second_version(model: str, preset: Preset) -> list[str]:
    """Return the commands from a second training to its promotion."""
    if preset.until is None:
        # Nobody did anything after the training that could compare the two.
        return [
            f"recsys train {model} --apply",
            f"recsys promote {model} 2 --force --reason 'a first try'",
        ]
    return [
        f"recsys train {model} --apply --until {preset.until:%Y-%m-%d}",
        f"recsys compare {model} 2  # on what users did after that day",
        f"recsys promote {model} 2  # one commit; 'recsys rollback' undoes it",
    ]


def _console(*, soft_wrap: bool = False) -> Console:
    """Return stdout; a pipe is as wide as it needs."""
    width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
    return Console(width=width, highlight=False, soft_wrap=soft_wrap)


def _metrics(out: Console, preset: Preset, number: int, found: Evaluation) -> None:
    day = preset.until
    when = f"what came from {day:%Y-%m-%d} on" if day else preset.holdout
    out.print(
        f"[bold]{preset.model}, version {number}[/bold], measured on {when}\n"
        f"({counted(found.users, 'user')}, {counted(found.hits, 'item')} they took)\n"
    )
    # jsonb, where the numbers are kept, has an order of its own.
    names = sorted(found.metrics["model"], key=lambda name: _ORDER.index(name[:2]))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for method in sorted(found.metrics, key=list(_METHODS).index):
        style = "bold" if method == "model" else ""
        values = (f"{found.metrics[method][name]:.4f}" for name in names)
        table.add_row(_METHODS[method], *values, style=style)
    out.print(Padding(table, (0, 0, 1, 2), expand=False))


def _cases(conn: Connection, model: Recommender, holdout: Holdout) -> list[Case]:
    """Ask the model about some users as of the cut-off, through its query tower."""
    users = [user for user, items in holdout.relevant.items() if items]
    # A fixed order that has nothing to do with the ids.
    users.sort(key=lambda user: zlib.crc32(str(user).encode()))
    cases: list[Case] = []
    for user in users[:_LOOKED_AT]:
        query, past = model.query_vector(user, before=holdout.before)
        if not past:
            continue
        with conn.cursor() as cur:
            cur.adapters.register_dumper(Halfvec, PackedDumper)
            rows = cur.execute(
                "select item_id from recsys.nearest_items(%s, %s, %s, %s)",
                (model.model, Halfvec(query), _LENGTH, [str(item) for item in past]),
            ).fetchall()
        kind = type(past[0])
        page = [kind(row[0]) for row in rows]
        later = frozenset(holdout.relevant[user])
        cases.append(Case(user, past[:_PAST], page, later))
    return cases


def _titles(
    conn: Connection, preset: Preset, cases: Sequence[Case]
) -> dict[ItemId, str]:
    wanted = {item for case in cases for item in (*case.past, *case.page)}
    return _lookup(conn, preset, list(wanted))


def _lookup(
    conn: Connection, preset: Preset, items: Sequence[ItemId]
) -> dict[ItemId, str]:
    query = (
        f"select item.id, item.title from ({preset.item}) as item(id, title)"
        " where item.id = any(%s)"
    )
    return dict(conn.execute(_sql.trusted(query), (list(items),)).fetchall())


def _user(out: Console, case: Case, titles: dict[ItemId, str]) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True)
    table.add_column(f"user {case.user} did before", ratio=1, no_wrap=True, style="dim")
    table.add_column("", width=1)
    table.add_column("is recommended", ratio=1, no_wrap=True)
    for i in range(max(len(case.past), len(case.page))):
        before = titles.get(case.past[i], "") if i < len(case.past) else ""
        item = case.page[i] if i < len(case.page) else None
        hit = item in case.later
        after = titles.get(item, str(item)) if item is not None else ""
        table.add_row(
            Text(before),
            Text("✓" if hit else "", "green"),
            Text(after, "bold" if hit else ""),
        )
    out.print(Padding(table, (0, 0, 1, 2)))


def _similar(
    out: Console, conn: Connection, model: Recommender, preset: Preset, case: Case
) -> None:
    item = case.page[0]
    page = model.similar_items(item, k=5)
    titles = _lookup(conn, preset, [item, *page.ids])
    out.print(f"Similar to [bold]{Text(titles.get(item, str(item)))}[/bold]\n")
    for found in page:
        out.print(Text(f"  {found.score:.2f}  {titles.get(found.item_id, '')}"))
    out.print()


def _in_sql(
    out: Console, conn: Connection, preset: Preset, config: ModelConfig, case: Case
) -> None:
    user = case.user if config.user_id == "bigint" else f"'{case.user}'"
    query = (
        f"select r.score, item.title\n"
        f"from recsys.recommend('{preset.model}', {user}, k => 3) as r\n"
        f"join ({preset.item}) as item(id, title)\n"
        f"  on item.id = r.item_id::{config.item_id}\n"
        f"order by r.score desc;"
    )
    out.print("[bold]The same in SQL[/bold], for this user today\n")
    out.print(Padding(Text(query), (0, 0, 0, 2), expand=False))
    out.print()
    for score, title in conn.execute(_sql.trusted(query)).fetchall():
        out.print(Text(f"  {score:.2f}  {title}"))
    out.print()
