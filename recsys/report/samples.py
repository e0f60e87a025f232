"""Lists of the validation slice to look at: the best, and those that missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_INTRO = (
    "Users are numbered; their ids are not in the report, but what somebody liked may"
    " still say who it is: show this page to those who may see the events. The lists"
    " are those of the fit on the training part, which did not know the hits."
)


def samples(report: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Return the sampled lists, each beside the history and what was chosen next."""
    rows: Sequence[Mapping[str, Any]] = report.get("samples", [])
    if not rows:
        return ""
    out = [f'<p class="quiet">{_INTRO}</p>']
    for sort, title in (("good", "Best lists"), ("bad", "Worst lists")):
        some = [row for row in rows if row["sort"] == sort]
        if some:
            out.append(f"<h3>{title}</h3>")
        out += [_sample(row, place, titles) for place, row in enumerate(some, 1)]
    return "".join(out)


def _sample(row: Mapping[str, Any], place: int, titles: Mapping[str, str]) -> str:
    hits, hit = set(row["hits"]), ' class="hit"'

    def entries(items: Sequence[Any], mark: bool) -> str:
        return "".join(
            f"<li{hit if mark and item in hits else ''}>"
            f"{escape(titles.get(str(item), str(item)))}</li>"
            for item in items
        )

    more = row["known"] - len(row["history"])
    rest = f" and {more:,} more" if more > 0 else ""
    return (
        f'<div class="card sample"><p class="quiet">User {place}:'
        f" NDCG@20 {row['ndcg@20']:.3f}, recall@20 {row['recall@20']:.3f}</p>"
        f'<div class="lists"><div><b>had, latest first{rest}</b>'
        f"<ul>{entries(row['history'], False)}</ul></div>"
        f"<div><b>recommended</b><ol>{entries(row['list'], True)}</ol></div>"
        f"<div><b>chose next</b><ul>{entries(row['hits'][:12], False)}</ul></div>"
        "</div></div>"
    )
