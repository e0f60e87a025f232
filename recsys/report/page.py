"""A version's report as one HTML file without anything to load."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError
from recsys.report import details, parts, samples, search, training
from recsys.report.facts import Facts
from recsys.report.style import STYLE
from recsys.report.verdict import FLOORS, Verdict, verdicts

_TILES = ("recall@20", "ndcg@20", "hr@10")
_MEANING = (
    "recall@20: share of what users chose in the validation slice that is among 20"
    " recommended items."
    " ndcg@20: the same, but first places count more. hr@10: share of users with a hit"
    " among 10. All from 0 to 1, on users and interactions that the judged fit did not"
    " know. The score of the findings is recall@20 + ndcg@20."
)
_GONE = "The report of the training is gone, and this with it."
_UPDATE = "A full update passes once over the news: nothing is noted on the way."
_NOBODY = "No user could be validated on."


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
    sections = _sections(facts)
    links = "".join(
        f'<a href="#{_slug(title)}">{escape(title)}</a>' for title in sections
    )
    body = [
        _head(facts),
        f'<nav aria-label="Parts">{links}</nav>',
        *(_verdict(verdict) for verdict in _findings(facts)),
        _tiles(facts),
        *(section(title, each) for title, each in sections.items()),
    ]
    title = f"{facts.model} {facts.number}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """Return a part of the page."""
    return f'<section id="{_slug(title)}"><h2>{escape(title)}</h2>{body}</section>'


def _slug(title: str) -> str:
    return "-".join(title.lower().replace(",", "").split())


def _sections(facts: Facts) -> Mapping[str, str]:
    """Return every part by its title; of an empty one, why it is."""
    report = facts.report
    full = "full" in report
    drawn = {
        "Learning": (training.learning(report), _UPDATE if full else _NOBODY),
        "Search for settings": (search.search(report, facts.trials), _NOBODY),
        "Health of the fit": (training.health(report), _UPDATE if full else _GONE),
        "Whom the average hides": (parts.parts(facts), _NOBODY),
        "Index": (
            training.index(facts),
            "No calibration yet: recsys backfill makes the index.",
        ),
        "Data, settings, time": (details.details(report), _GONE),
        "Lists to look at": (samples.samples(report, facts.items), _NOBODY),
    }
    return {
        title: body or f'<p class="quiet">{why if report else _GONE}</p>'
        for title, (body, why) in drawn.items()
    }


def _head(facts: Facts) -> str:
    until = facts.trained_until
    data = (
        f"data until {until.replace('T', ' ')[:16]}"
        if until
        else "interactions without times"
    )
    return (
        f"<header><h1>{escape(facts.model)} version {facts.number}"
        f'<span class="badge">{escape(facts.state)}</span></h1>'
        f'<p class="quiet">Made {facts.created_at:%Y-%m-%d %H:%M %Z} by'
        f" {escape(facts.created_by)}, from {escape(data)}.</p>"
        "</header>"
    )


def _findings(facts: Facts) -> list[Verdict]:
    found = verdicts(facts.report) if facts.report else []
    warned: list[Mapping[str, Any]] = facts.report.get("warnings", [])
    return [
        *found,
        *(
            Verdict(
                "times" if row.get("side") == "interaction" else "features",
                False,
                str(row.get("message", "")),
            )
            for row in warned
        ),
        *(Verdict("note", False, text) for text in facts.problems),
    ]


def _verdict(verdict: Verdict) -> str:
    kind = "verdict good" if verdict.good else "verdict"
    return (
        f'<div class="{kind}"><b>{escape(verdict.name)}</b>: {escape(verdict.detail)}'
        f" {escape(verdict.advice)}</div>"
    )


def _tiles(facts: Facts) -> str:
    """Return the headline, each number beside the better floor."""
    validation = facts.metrics.get("validation", {})
    model = validation.get("model", {})
    floors = {name: validation[name] for name in FLOORS if name in validation}
    out = [
        _tile(f"{model[metric]:.4f}", metric, _beside(metric, model[metric], floors))
        for metric in _TILES
        if metric in model
    ]
    meaning = f'<p class="quiet">{_MEANING}</p>' if out else ""
    users = validation.get("users")
    if users:
        how = "the latest interactions" if validation.get("by_time") else "random pairs"
        out.append(_tile(f"{users:,}", "users judged", f"validation slice: {how}"))
    if facts.ann_recall is not None:
        beside = f"of the exact scan, at ef_search {facts.ef_search}"
        out.append(_tile(f"{facts.ann_recall:.3f}", "index recall@20", beside))
    if facts.item_count is not None:
        out.append(_tile(f"{facts.item_count:,}", "item vectors", "in the index"))
    return f'<div class="tiles">{"".join(out)}</div>{meaning}' if out else ""


def _beside(
    metric: str, value: float, floors: Mapping[str, Mapping[str, float]]
) -> str:
    """Say how often the better floor goes into a metric."""
    if not floors:
        return ""
    name = max(floors, key=lambda floor: floors[floor][metric])
    floor = floors[name][metric]
    what = f"{FLOORS[name]} ({floor:.4f})"
    return f"{value / floor:.1f} times {what}" if floor else f"beside {what}"


def _tile(value: str, name: str, beside: str) -> str:
    return (
        f'<div class="tile">{escape(name)}<b>{escape(value)}</b>'
        f"<small>{escape(beside)}</small></div>"
    )
