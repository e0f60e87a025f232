"""Lists of the validation slice to look at: the best, and those that missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from recsys.report.facts import Item
from recsys.report.tables import in_words

_INTRO = (
    "Lists of real users, made by the fit that did not know the validation slice: ✓"
    " marks what they {chose}. What somebody liked says who it is: show this page to"
    " those who may see the events."
)
_SHOWN, _MOST_HITS = 10, 12
_TITLES = (("good", "Best lists"), ("bad", "Worst lists"))
Items = Mapping[str, Item]


def samples(report: Mapping[str, Any], items: Items) -> str:
    """Return the sampled lists, each beside the history and what was chosen next."""
    rows: Sequence[Mapping[str, Any]] = report.get("samples", [])
    if not rows:
        return ""
    timed = bool(report.get("validation", {}).get("by_time", True))
    out = [f'<p class="quiet">{_INTRO.format(chose=_chose(timed))}</p>']
    for sort, title in _TITLES:
        some = [row for row in rows if row["sort"] == sort]
        if some:
            out.append(f"<h3>{title}</h3>")
        out += [_sample(row, items, timed) for row in some]
    return "".join(out)


def _chose(timed: bool) -> str:
    return "chose next" if timed else "chose too, held out at random"


def reason(row: Mapping[str, Any], *, timed: bool = True) -> str:
    """Say why a list counts as good or bad: how many hits, and where."""
    chosen = "chosen next" if timed else "held out"
    hits, listed = row["hits"], row["list"]
    places = sorted(listed.index(item) + 1 for item in hits if item in listed)
    where = ("place " if len(places) == 1 else "places ") + in_words(places)
    word = "Good" if row["sort"] == "good" else "Weak" if places else "Missed"
    among = f"among the first {len(listed)} recommended"
    if len(hits) == 1:
        found = f"at {where}" if places else f"not {among}"
        return f"{word}: the one item {chosen} is {found}"
    if not places:
        return f"{word}: none of the {len(hits)} items {chosen} is {among}"
    share = "all" if len(places) == len(hits) else f"{len(places)}"
    verb = "is" if len(places) == 1 else "are"
    return (
        f"{word}: {share} of the {len(hits)} items {chosen} {verb} {among}, at {where}"
    )


def _sample(row: Mapping[str, Any], items: Items, timed: bool) -> str:
    hits, listed = row["hits"], row["list"]
    user = (
        f"User <code>{escape(str(row['user']))}</code>" if "user" in row else "A user"
    )
    measured = f"recall@20 {row['recall@20']:.3f}, ndcg@20 {row['ndcg@20']:.3f}"
    shown = [(place, item) for place, item in enumerate(listed, 1)
             if place <= _SHOWN or item in hits]  # fmt: skip
    had = [_entry(item, items) for item in row["history"]]
    recommended = [
        _entry(item, items, place=place, hit=item in hits) for place, item in shown
    ]
    chose = [
        _entry(item, items, more=_found(item, listed, users))
        for item, users in _hits(row)[:_MOST_HITS]
    ]
    more = len(hits) - _MOST_HITS
    if more > 0:
        chose.append(f"<li>and {more:,} more</li>")
    columns = (
        (f"Had before{_of(row, timed)}", "ul", had),
        (f"Recommended{_first(shown, listed)}", "ol", recommended),
        (_chose(timed).capitalize(), "ul", chose),
    )
    lists = "".join(
        f"<div><b>{title}</b><{kind}>{''.join(entries)}</{kind}></div>"
        for title, kind, entries in columns
    )
    return (
        f'<div class="card sample"><h4>{user}</h4>'
        f"<p>{escape(reason(row, timed=timed))} ({measured}).</p>"
        f'<div class="lists">{lists}</div></div>'
    )


def _of(row: Mapping[str, Any], timed: bool) -> str:
    known, shown = row["known"], len(row["history"])
    if known > shown:
        return f": {'the latest ' if timed else ''}{shown} of {known:,}"
    return ", latest first" if timed else ""


def _first(shown: Sequence[Any], listed: Sequence[Any]) -> str:
    if len(shown) == len(listed):
        return ", best first"
    return f": the first {_SHOWN} of {len(listed)}, and every hit"


def _hits(row: Mapping[str, Any]) -> list[tuple[Any, int | None]]:
    """Return the hits and how many users had each; older versions do not know."""
    users: Sequence[int | None] = row.get("hit_users") or [None] * len(row["hits"])
    return list(zip(row["hits"], users, strict=False))


def _found(item: Any, listed: Sequence[Any], users: int | None) -> str:
    where = f"place {listed.index(item) + 1}" if item in listed else "not in the list"
    if users is None:
        return where
    return f"{where}, {users:,} {'user' if users == 1 else 'users'} had it"


def _entry(
    item: Any, items: Items, *, place: int = 0, hit: bool = False, more: str = ""
) -> str:
    found = items.get(str(item))
    name = found.title if found and found.title else str(item)
    titled = f"id {item}" if found and found.title else ""
    told = [titled, *(found.about if found else ()), more]
    about = " ".join(f"<bdi>{escape(text)}</bdi>" for text in told if text)
    small = f" <small>{about}</small>" if about else ""
    mark = ' <span class="tick">✓ a hit</span>' if hit else ""
    value = f' value="{place}"' if place else ""
    kind = ' class="hit"' if hit else ""
    return f"<li{value}{kind}><bdi>{escape(name)}</bdi>{mark}{small}</li>"
