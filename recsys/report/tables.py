"""Tables of a report, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    text: int = 1,
    best: int = -1,
) -> str:
    """Return a table that scrolls by itself when it is too wide.

    Args:
        title: What it holds, for those who hear the page.
        head: Names of the columns; none for a list of names and values.
        rows: The cells; the first one of a row names it.
        text: How many columns are text, on the left; the others are numbers.
        best: Place of a row to stand out.
    """
    names = "".join(
        f'<th scope="col"{_side(place < text)}>{escape(name)}</th>'
        for place, name in enumerate(head)
    )
    marks = {best: ' class="best"'}
    body = "".join(
        f"<tr{marks.get(place, '')}>{_cells(row, text)}</tr>"
        for place, row in enumerate(rows)
    )
    names = f"<thead><tr>{names}</tr></thead>" if names else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f"<table>{names}<tbody>{body}</tbody></table></div>"
    )


def card(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    note: str = "",
    text: int = 1,
    best: int = -1,
) -> str:
    """Return a table with its title; empty text without rows."""
    if not rows:
        return ""
    how = f'<p class="note">{escape(note)}</p>' if note else ""
    body = table(title, head, rows, text=text, best=best)
    return f'<div class="card"><h3>{escape(title)}</h3>{how}{body}</div>'


def grid(drawn: Sequence[str]) -> str:
    """Return cards beside each other where there is room."""
    return f'<div class="grid">{"".join(drawn)}</div>' if any(drawn) else ""


def metric(name: str, value: float | None) -> str:
    """Return a metric with four decimals, as commands print it, or a count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if name == "users" else f"{value:.4f}"


def plain(value: object) -> str:
    """Return a setting as one would write it."""
    if value is None or value == "" or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] # JSON
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cells(row: Sequence[object], text: int) -> str:
    first, *others = row
    return f'<th scope="row">{escape(str(first))}</th>' + "".join(
        f"<td{_side(place < text)}>{escape(str(cell))}</td>"
        for place, cell in enumerate(others, 1)
    )


def _side(text: bool) -> str:
    return ' class="t"' if text else ""


def in_words(values: Sequence[int]) -> str:
    """Return numbers in words: "1, 2 and 3"; nothing for none."""
    if not values:
        return ""
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last
