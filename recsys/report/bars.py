"""Bars as SVG, one per value, each with its number."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from recsys.report.figures import WIDTH, figure, picture
from recsys.report.palette import colour

_THICK, _GAP = 14, 12
_LEFT, _RIGHT = 118, 48
Row = tuple[str, Sequence[float | None]]


def bars(
    title: str, rows: Sequence[Row], names: Sequence[str], *, note: str = ""
) -> str:
    """Return horizontal bars, one per name and row, empty text without any value.

    Args:
        title: What is drawn.
        rows: Label and one value per name; None draws nothing.
        names: What the values are: the legend.
        note: How to read it, a sentence or two.
    """
    values = [v for _, row in rows for v in row if v is not None]
    if not values:
        return ""
    tall = len(names) * _THICK + _GAP
    scale = (WIDTH - _LEFT - _RIGHT) / max(*values, 1e-9)
    drawn = "".join(
        _row(row, place * tall + _GAP / 2, scale) for place, row in enumerate(rows)
    )
    svg = picture(title, _said(rows, names), drawn, len(rows) * tall + 4)
    return figure(title, note, _keys(names) + svg)


def _row(row: Row, top: float, scale: float) -> str:
    label, values = row
    middle = top + len(values) * _THICK / 2 + 4
    out = (
        f'<text x="{_LEFT - 8}" y="{middle:.1f}" text-anchor="end">'
        f"{escape(label)}</text>"
    )
    for number, value in enumerate(values):
        if value is None:
            continue
        y, long = top + number * _THICK, max(1.0, value * scale)
        out += (
            f'<rect class="b{colour(number + 1)}" x="{_LEFT}" y="{y:.1f}" rx="2"'
            f' width="{long:.1f}" height="{_THICK - 4}"/>'
            f'<text class="v" x="{_LEFT + long + 5:.1f}" y="{y + 9:.1f}">'
            f"{value:.3f}</text>"
        )
    return out


def _keys(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    entries = "".join(
        '<span><svg class="key" viewBox="0 0 12 12" aria-hidden="true">'
        f'<rect class="b{colour(place)}" width="12" height="12" rx="2"/></svg>'
        f"{escape(name)}</span>"
        for place, name in enumerate(names, 1)
    )
    return f'<div class="legend">{entries}</div>'


def _said(rows: Sequence[Row], names: Sequence[str]) -> str:
    return "; ".join(
        f"{label}: "
        + ", ".join(
            f"{name} {value:.3f}"
            for name, value in zip(names, row, strict=True)
            if value is not None
        )
        for label, row in rows
    )
