"""The part of a report behind the average: segments of users and items, newcomers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from recsys._wording import counted
from recsys.report.bars import bars
from recsys.report.facts import Facts
from recsys.report.tables import card, grid, metric
from recsys.report.verdict import FLOORS
from recsys.segments import HEAD, NEW, OLD, TORSO

_METHODS = {
    "model": "model",
    **FLOORS,
    "exact": "exact scan",
    "model_among_new": "model, among new items",
    "random_among_new": "any order of new items",
    "first_visit": "first visit",
    "first_visit: popular_30d": f"first visit, {FLOORS['popular_30d']}",
    "session": "session",
    "session: popular_30d": f"session, {FLOORS['popular_30d']}",
}
"""What is measured, in the order of a table; anything else comes after, as stored."""
_PARTS = (
    "new users", "regular users", "old users", "head items", "torso items",
    "tail items",
)  # fmt: skip
_METRICS = "recall ndcg hr users"
_WHAT = (
    f"New users had fewer than {NEW} items, old ones at least {OLD}. Head items are the"
    f" most popular ones with {HEAD:.0%} of all (user, item) pairs, torso items the"
    f" next {TORSO - HEAD:.0%}, tail items the rest. Bars: share of what was chosen"
    " next that is in the list, 1 at most."
)
_LISTS = (
    "coverage: share of the catalogue in any list; gini: 0 when all items are shown as"
    " often, 1 when it is always the same; popularity_lift: how much more popular items"
    " are than what users had, 0 is as much."
)
_NEWCOMERS = (
    "Items that nobody had before the validation slice have no row and are placed by"
    " their features alone."
)


def parts(facts: Facts) -> str:
    """Return the parts of each slice: recall as bars, and every number."""
    slices = dict(facts.metrics)
    for name, methods in facts.report.get("segments", {}).items():
        slices.setdefault(f"validation: {name}", methods)
    out: list[str] = []
    for of in dict.fromkeys(n.partition(": ")[0] for n in slices if ": " in n):
        found = {n.partition(": ")[2]: v for n, v in slices.items()
                 if n.startswith(f"{of}: ")}  # fmt: skip
        lists = found.pop("lists", None)
        found = {name: found[name] for name in sorted(found, key=_place)}
        beside = [_bars(of, found)]
        if lists:
            beside.append(_lists(of, lists))
        out += [grid(beside), _table(f"All numbers of the parts, {of}", found)]
    out.append(_newcomers(facts.report.get("cold", {})))
    others = {n: v for n, v in slices.items() if ": " not in n and n != "validation"}
    return "".join([*out, _table("Stored evaluations", others)])


def _place(part: str) -> tuple[int, str]:
    """Return where a part stands: jsonb has an order of its own."""
    return (_PARTS.index(part) if part in _PARTS else len(_PARTS)), part


def _methods(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what some slices measure, and what each is called."""
    every = {
        method: str(method)
        for part in found.values()
        for method, values in part.items()
        if isinstance(values, Mapping)
    }
    known = {method: name for method, name in _METHODS.items() if method in every}
    return {**known, **{m: name for m, name in every.items() if m not in known}}


def _bars(of: str, found: Mapping[str, Any]) -> str:
    methods = _methods(found)
    drawn: list[tuple[str, list[float | None]]] = [
        (name, [_first(values.get(m, {}), "recall@") for m in methods])
        for name, values in found.items()
    ]
    names = _metrics(found)
    recall = min((n for n in names if n.startswith("recall@")), default="recall")
    return bars(f"{recall} by part, {of}", drawn, list(methods.values()), note=_WHAT)


def _metrics(found: Mapping[str, Any]) -> set[str]:
    return {
        metric
        for part in found.values()
        for values in part.values()
        if isinstance(values, Mapping)
        for metric in cast(Mapping[str, float], values)
    }


def _first(values: Mapping[str, float], prefix: str) -> float | None:
    return next((v for name, v in values.items() if name.startswith(prefix)), None)


def _lists(of: str, lists: Mapping[str, Any]) -> str:
    names = sorted({name for values in lists.values() for name in values})
    rows = [
        (called, *(metric(name, lists[method].get(name)) for name in names))
        for method, called in _methods({of: lists}).items()
    ]
    return card(f"What lists are made of, {of}", ("list", *names), rows, note=_LISTS)


def _table(title: str, found: Mapping[str, Any]) -> str:
    names = sorted(
        _metrics(found),
        key=lambda name: (_METRICS.find(name.partition("@")[0]), name),
    )
    methods = _methods(found)
    rows: list[list[str]] = []
    for name, part in found.items():
        for method, called in methods.items():
            values: Mapping[str, float] | None = part.get(method)
            if values:
                numbers = (metric(of, values.get(of)) for of in names)
                rows.append([name, called, *numbers])
    return card(title, ["part", "method", *names], rows, text=2)


def _newcomers(cold: Mapping[str, Any]) -> str:
    """Return how items without a learned row do."""
    if "new_in_all" not in cold:
        return ""
    said = {
        "new_in_all": "hits on new items, all items ranked",
        "new_among_new": "hits on new items, only new ones ranked",
        "random_among_new": "the same in any order",
        "all": "every hit, all items ranked",
    }
    names = ("recall@20", "ndcg@20", "hr@10")
    rows = [
        (text, *(metric(name, cold[key].get(name)) for name in names))
        for key, text in said.items()
        if key in cold
    ]
    users = counted(cold.get("users", 0), "user")
    how = f"{users} chose one of {cold.get('items', 0):,}."
    return card("New items", ("", *names), rows, note=f"{_NEWCOMERS} {how}")
