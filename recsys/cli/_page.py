"""A comparison as one HTML file without anything to load: bars, and lists of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from psycopg import sql

from recsys import _sql
from recsys._db import Connection
from recsys._lists import Paired
from recsys._wording import counted
from recsys.compare import Comparison, Example
from recsys.config import ModelConfig
from recsys.errors import ConfigError
from recsys.types import ItemId

_WIDTH, _ROW, _LEFT = 620, 46, 150
_TITLE_LENGTH = 60

_STYLE = """
:root { --base: #7a869a; --new: #2563eb; --hit: #15803d; --line: #d0d7de; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; margin: 2rem auto;
       max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
.verdict { border-left: .3rem solid var(--bad, #b42318); padding: .5rem 1rem;
           background: #f6f8fa; }
.passed { --bad: var(--hit); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line);
         text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; }
.user { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; }
.user ol { margin: .2rem 0; padding-left: 1.6rem; }
.hit { color: var(--hit); font-weight: 600; } .only { background: #fff8c5; }
.past { color: #57606a; } svg text { font: 13px system-ui, sans-serif; }
"""


def titles(
    conn: Connection, config: ModelConfig, comparison: Comparison
) -> dict[ItemId, str]:
    """Return a title for each item of the examples that the item source still has.

    It is made of the source's first text and first category feature, if any.
    """
    wanted = {
        item
        for example in comparison.examples
        for some in (example.had, example.took, example.base, example.candidate)
        for item in some
    }
    parts: list[str] = []
    for kind in ("text", "category"):
        names = [f.name for f in config.items.features if f.type == kind]
        parts += [f"source.{_quoted(name)}::text" for name in names[:1]]
    if not parts or not wanted:
        return {}
    rows = conn.execute(
        _sql.trusted(
            f"select source.item_id::{config.item_id},"
            f" concat_ws(' · ', {', '.join(parts)})"
            f" from ({config.items.sql.replace('%', '%%')}\n) as source"
            f" where source.item_id::{config.item_id} = any(%s::{config.item_id}[])"
        ),
        (list(wanted),),
    ).fetchall()
    return dict(rows)


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None).replace("%", "%%")


def write(path: Path, comparison: Comparison, titles: Mapping[ItemId, str]) -> None:
    """Write the page.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        path.write_text(page(comparison, titles), encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc


def page(comparison: Comparison, titles: Mapping[ItemId, str]) -> str:
    """Return the page as HTML."""
    found = comparison
    base = f"version {found.base_number}" if found.base_number else "popularity"
    heading = f"{found.model}: version {found.number} against {base}"
    state = "passed" if found.passed else "not"
    since = f", hits after {found.cutoff:%Y-%m-%d %H:%M %Z}" if found.cutoff else ""
    users, hits = counted(found.users, "user"), counted(found.hits, "hit")
    facts = f"{users}, {hits}, k = {found.k}{since}"
    if found.limited:
        facts += f"; limited data: {found.sample_percent:.3g} % of the items"
    users = "\n".join(_user(e, base, found.number, titles) for e in found.examples)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(heading)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(heading)}</h1>
<p class="verdict {state}">{escape(found.verdict)}</p>
<p>{escape(facts)}</p>
<h2>Side by side</h2>
{_chart(found.metrics, base, found.number)}
<h2>Numbers</h2>
{_table(found.metrics)}
<h2>What users see</h2>
<p>The first ten users of the sample. <span class="hit">Green</span>: the user took it
later. <span class="only">Yellow</span>: only this version shows it.</p>
{users}
</body>
</html>
"""


def _chart(metrics: Mapping[str, Paired], base: str, number: int) -> str:
    """Return one pair of bars per metric, each pair on a scale of its own."""
    shown = [
        (name, paired.base, paired.candidate)
        for name, paired in metrics.items()
        if paired.base is not None and paired.candidate is not None
    ]
    height = _ROW * len(shown) + 24
    bars = "".join(
        _pair(name, first, second, 24 + _ROW * row)
        for row, (name, first, second) in enumerate(shown)
    )
    return (
        f'<svg role="img" aria-label="metrics of both versions" width="{_WIDTH}"'
        f' height="{height}" viewBox="0 0 {_WIDTH} {height}">'
        f'<text x="{_LEFT}" y="14" fill="#57606a">{escape(base)} above (grey), version'
        f" {number} below (blue); each metric has its own scale</text>{bars}</svg>"
    )


def _pair(name: str, first: float, second: float, top: int) -> str:
    most = max(abs(first), abs(second)) or 1.0
    room = _WIDTH - _LEFT - 90
    out = f'<text x="0" y="{top + 22}">{escape(name)}</text>'
    for value, colour, y in ((first, "#7a869a", top), (second, "#2563eb", top + 18)):
        width = room * max(0.0, value) / most
        out += (
            f'<rect x="{_LEFT}" y="{y + 2}" width="{width:.1f}" height="14" rx="2"'
            f' fill="{colour}"/>'
            f'<text x="{_LEFT + width + 6:.1f}" y="{y + 14}">{value:.4g}</text>'
        )
    return out


def _table(metrics: Mapping[str, Paired]) -> str:
    head = "".join(
        f'<th class="n">{name}</th>'
        for name in ("base", "candidate", "difference", "95 % interval", "popular")
    )
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{_number(p.base)}{_number(p.candidate)}"
        f"{_number(p.difference, '+')}{_interval(p)}{_number(p.popular)}</tr>\n"
        for name, p in metrics.items()
    )
    return f"<table>\n<tr><th>metric</th>{head}</tr>\n{rows}</table>"


def _number(value: float | None, sign: str = "") -> str:
    return f'<td class="n">{"" if value is None else format(value, f"{sign}.4f")}</td>'


def _interval(paired: Paired) -> str:
    if paired.low is None or paired.high is None:
        return '<td class="n"></td>'
    sign = "" if paired.difference is None else "+"
    low, high = (format(x, f"{sign}.4f") for x in (paired.low, paired.high))
    return f'<td class="n">{low} to {high}</td>'


def _user(
    example: Example, base: str, number: int, titles: Mapping[ItemId, str]
) -> str:
    def named(items: Sequence[ItemId]) -> str:
        shown = ", ".join(_title(item, titles) for item in items)
        return escape(shown) or "nothing"

    def listed(items: Sequence[ItemId], others: Sequence[ItemId]) -> str:
        lines: list[str] = []
        for item in items:
            kind = "hit" * (item in example.took)
            kind += " only" * (item not in others)
            lines.append(
                f'<li class="{kind.strip()}">{escape(_title(item, titles))}</li>'
            )
        return f"<ol>{''.join(lines)}</ol>"

    first = listed(example.base, example.candidate)
    second = listed(example.candidate, example.base)
    return f"""<h3>User {escape(str(example.user))}</h3>
<p class="past">liked last: {named(example.had)}<br>
took later: {named(example.took)}</p>
<div class="user">
<div><strong>{escape(base)}</strong>{first}</div>
<div><strong>version {number}</strong>{second}</div>
</div>"""


def _title(item: ItemId, titles: Mapping[ItemId, str]) -> str:
    title = titles.get(item, "")
    if len(title) > _TITLE_LENGTH:
        title = title[: _TITLE_LENGTH - 1] + "…"
    return f"{title} ({item})" if title else str(item)
