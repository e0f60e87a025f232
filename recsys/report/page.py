"""A version's report as one HTML file without anything to load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, cast

from recsys.errors import ConfigError
from recsys.report import samples, training
from recsys.report.charts import bars
from recsys.report.facts import Facts
from recsys.report.style import STYLE
from recsys.report.verdict import Verdict, verdicts

_FLOORS = ("most_popular", "popular_30d")
_PARTS = (
    "new users", "regular users", "old users", "head items", "torso items",
    "tail items",
)  # fmt: skip
_TILES = ("recall@20", "ndcg@20", "hr@10")
_NAMES = {
    "model": "model",
    "most_popular": "most popular",
    "popular_30d": "popular in 30 days",
    "exact": "exact scan",
}


def write(path: Path, facts: Facts) -> None:
    """Write the page.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        path.write_text(page(facts), encoding="utf-8")
    except OSError as exc:
        raise ConfigError(
            f"cannot write {path}: {exc.strerror}", hint="Choose another file by --out."
        ) from exc


def page(facts: Facts) -> str:
    """Return the page as HTML."""
    parts = [
        _head(facts),
        *(_verdict(verdict) for verdict in _findings(facts)),
        _tiles(facts),
        section("Learning", training.learning(facts.report)),
        section("Search for settings", training.search(facts.report, facts.trials)),
        section("Health of the fit", training.health(facts.report)),
        section("Whom the average hides", _segments(facts)),
        section("Index", training.index(facts)),
        section("Data, settings, time", _tables(facts)),
        section("Lists to look at", samples.samples(facts.report, facts.titles)),
    ]
    title = f"{facts.model} {facts.number}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """Return a part of the page, nothing when it is empty."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _head(facts: Facts) -> str:
    until = (facts.trained_until or "an unknown time").replace("T", " ")[:16]
    return (
        f"<header><h1>{escape(facts.model)} version {facts.number}"
        f'<span class="badge">{escape(facts.state)}</span></h1>'
        f'<p class="quiet">Made {facts.created_at:%Y-%m-%d %H:%M %Z} by'
        f" {escape(facts.created_by)}, from data until {escape(until)}.</p>"
        "</header>"
    )


def _findings(facts: Facts) -> list[Verdict]:
    found = verdicts(facts.report) if facts.report else []
    warned: list[Mapping[str, Any]] = facts.report.get("warnings", [])
    return [
        *found,
        *(Verdict("features", False, str(row.get("message", ""))) for row in warned),
        *(Verdict("note", False, text) for text in facts.problems),
    ]


def _verdict(verdict: Verdict) -> str:
    kind = "verdict good" if verdict.good else "verdict"
    return (
        f'<div class="{kind}"><b>{escape(verdict.name)}</b>: {escape(verdict.detail)}'
        f" {escape(verdict.advice)}</div>"
    )


def _tiles(facts: Facts) -> str:
    """Return the headline, each number above the better floor."""
    validation = facts.metrics.get("validation", {})
    model = validation.get("model", {})
    out: list[str] = []
    for metric in _TILES:
        if metric not in model:
            continue
        floors = {f: validation[f][metric] for f in _FLOORS if f in validation}
        beside = ""
        if floors:
            name = max(floors, key=floors.__getitem__)
            times = model[metric] / floors[name] if floors[name] else 0.0
            beside = f"{times:.1f} times {_NAMES[name]} ({floors[name]:.4f})"
        out.append(_tile(f"{model[metric]:.4f}", metric, beside))
    users = validation.get("users")
    if users:
        how = "the latest interactions" if validation.get("by_time") else "random pairs"
        out.append(_tile(f"{users:,}", "users judged", f"validation slice: {how}"))
    if facts.ann_recall is not None:
        beside = f"at ef_search {facts.ef_search}"
        out.append(_tile(f"{facts.ann_recall:.3f}", "index recall@20", beside))
    if facts.item_count is not None:
        out.append(_tile(f"{facts.item_count:,}", "item vectors", "in the index"))
    return f'<div class="tiles">{"".join(out)}</div>' if out else ""


def _tile(value: str, name: str, beside: str) -> str:
    return (
        f'<div class="tile">{escape(name)}<b>{escape(value)}</b>'
        f"<small>{escape(beside)}</small></div>"
    )


def _segments(facts: Facts) -> str:
    """Return the parts of each slice: recall as bars, and every number."""
    slices = dict(facts.metrics)
    for name, methods in facts.report.get("segments", {}).items():
        slices.setdefault(f"validation: {name}", methods)
    out: list[str] = []
    for of in dict.fromkeys(n.partition(": ")[0] for n in slices if ": " in n):
        parts = {n.partition(": ")[2]: v for n, v in slices.items()
                 if n.startswith(f"{of}: ")}  # fmt: skip
        lists = parts.pop("lists", None)
        parts = {name: parts[name] for name in sorted(parts, key=_place)}
        drawn = [_segment_bars(of, parts)]
        if lists:
            drawn.append(_segment_table(f"What lists are made of, {of}", {"": lists}))
        out += [_grid(drawn), _segment_table(f"Parts, {of}", parts)]
    others = {n: v for n, v in slices.items() if ": " not in n and n != "validation"}
    return "".join([*out, _segment_table("Stored evaluations", others)])


def _grid(drawn: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(drawn)}</div>' if any(drawn) else ""


def _place(part: str) -> tuple[int, str]:
    """Return where a part stands: jsonb has an order of its own."""
    return (_PARTS.index(part) if part in _PARTS else len(_PARTS)), part


def _segment_bars(of: str, parts: Mapping[str, Any]) -> str:
    methods = [m for m in _NAMES if any(m in methods for methods in parts.values())]
    drawn: list[tuple[str, list[float | None]]] = [
        (name, [_first(values.get(m, {}), "recall@") for m in methods])
        for name, values in parts.items()
    ]
    return bars(f"Recall of parts, {of}", drawn, [_NAMES[m] for m in methods])


def _first(values: Mapping[str, float], prefix: str) -> float | None:
    return next((v for name, v in values.items() if name.startswith(prefix)), None)


def _segment_table(title: str, parts: Mapping[str, Any]) -> str:
    names = sorted({
        metric for part in parts.values() for values in part.values()
        if isinstance(values, Mapping) for metric in cast(Mapping[str, float], values)
    }, key=lambda name: (name == "users", name.startswith("hr@"), name))  # fmt: skip
    rows: list[list[str]] = []
    for name, part in parts.items():
        for method in _NAMES:
            values: Mapping[str, float] | None = part.get(method)
            if values:
                numbers = (_number(values.get(metric)) for metric in names)
                rows.append([name, _NAMES[method], *numbers])
    if not rows:
        return ""
    head = ["part", "method", *names]
    if list(parts) == [""]:
        head, rows = head[1:], [row[1:] for row in rows]
    return f'<div class="card"><h3>{escape(title)}</h3>{table(head, rows)}</div>'


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value == int(value) and value > 1 else f"{value:.4f}"


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table that scrolls by itself when it is too wide."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _tables(facts: Facts) -> str:
    report = facts.report
    data = {k: v for k, v in report.get("data", {}).items() if k != "kinds"}
    for name in ("since", "until"):
        if isinstance(data.get(name), int | float):
            data[name] = _time(float(data[name]))
    counted = report.get("data", {}).get("kinds", {})
    kinds = {kind or "(none)": count for kind, count in counted.items()}
    settings = dict(report.get("settings", {}))
    trend = settings.pop("trend", None)
    if trend:
        settings["trend"] = ", ".join(f"{k} {_cell(v)}" for k, v in trend.items())
    settings |= {k: v for k, v in report.get("limits", {}).items() if k != "epochs"}
    cards = {
        "Data": data,
        "Interactions by kind": kinds if list(kinds) != ["(none)"] else {},
        "Settings": settings,
        "Seconds": report.get("timing", {}),
        "Parity of ONNX and torch": report.get("parity", {}),
    }
    drawn = "".join(
        f'<div class="card"><h3>{escape(title)}</h3>'
        f"{table(['', ''], ((k, _cell(v)) for k, v in values.items()))}</div>"
        for title, values in cards.items()
        if values
    )
    return f'<div class="grid">{drawn}</div>' if drawn else ""


def _time(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s"  # Postgres knows later years than Python


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(map(_cell, value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] # JSON
    return f"{value:,}" if isinstance(value, int) else str(value)
