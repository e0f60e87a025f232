"""Line charts as SVG: every line is named, and is told in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from recsys.report.axes import Axis, bounds, digits, short
from recsys.report.figures import WIDTH, figure, picture
from recsys.report.palette import colour, dash, marker
from recsys.report.tables import table

HEIGHT = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 26, 40
# Names stand at the ends of their lines where they are short enough, with a sample.
_LONGEST_NAME = 14
_MOST_NAMES = 8
_LETTER, _SAMPLE, _APART = 6.8, 22, 14
# More rows of numbers than this are thinned out.
_MOST_ROWS = 40


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        name: For the legend; lines of one name and look share an entry.
        points: x and y, by rising x.
        look: Colour, dashes and marker, from 1 on, see ``palette``; 0 is quiet grey.
        dots: Mark the points; a touch shows their values.
        reference: Something to compare with: dotted, without markers.
        joined: Draw the line between the points.
    """

    name: str
    points: Sequence[tuple[float, float]]
    look: int = 1
    dots: bool = True
    reference: bool = False
    joined: bool = True


def lines(
    title: str,
    drawn: Sequence[Line],
    *,
    y: str,
    x: str = "epoch",
    note: str = "",
    log: bool = False,
    zero: bool = False,
    mark: tuple[float, str] | None = None,
) -> str:
    """Return a line chart as an HTML figure, empty text without any points.

    Where everything was measured once there is no line: the values are written.

    Args:
        title: What is drawn.
        drawn: The lines; those without a finite point are left out.
        y: What the y axis measures, with its unit.
        x: What the x axis counts.
        note: How to read it, a sentence or two.
        log: Logarithmic y axis; points that are not positive are left out.
        zero: The y axis begins at 0.
        mark: A place on the x axis, and what is there.
    """
    drawn = [_finite(line, log) for line in drawn]
    drawn = [line for line in drawn if line.points]
    measured = [line for line in drawn if not line.reference]
    if not measured:
        return ""
    if all(len(line.points) == 1 for line in measured):
        return figure(title, note, _values(title, drawn, x, y))
    legend = _legend(drawn)
    beside = len(legend) > 1 and _fits(legend)
    across, up = _axes(drawn, _column(legend) if beside else 0, log=log, zero=zero)
    parts = [_grid(across, up, x, f"{y}, log scale" if log else y)]
    if mark:
        parts.append(_mark(across, mark))
    parts += [_line(line, across, up, x) for line in drawn]
    if beside:
        parts.append(_names(legend, across.end + 8, up))
    keys = "" if beside or len(legend) < 2 else _keys(legend)
    svg = picture(title, _said(drawn, x), "".join(parts), HEIGHT)
    return figure(title, note, keys + svg + _numbers(title, drawn, x))


def _axes(
    drawn: Sequence[Line], names: float, *, log: bool, zero: bool
) -> tuple[Axis, Axis]:
    xs = [px for line in drawn for px, _ in line.points]
    ys = [py for line in drawn for _, py in line.points]
    whole = all(value == int(value) for value in xs)
    return (
        Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT - names, whole=whole),
        Axis(*bounds(ys, log=log, zero=zero), HEIGHT - _BOTTOM, _TOP, log),
    )


def _finite(line: Line, log: bool) -> Line:
    kept = [
        (px, py)
        for px, py in line.points
        if math.isfinite(px) and math.isfinite(py) and (py > 0 or not log)
    ]
    return replace(line, points=kept)


def _legend(drawn: Sequence[Line]) -> list[Line]:
    """Return one line of each name and look, as they end from top to bottom."""
    first = {(line.name, line.look, line.reference): line for line in drawn}
    return sorted(first.values(), key=lambda line: -line.points[-1][1])


def _fits(legend: Sequence[Line]) -> bool:
    short_ = all(len(line.name) <= _LONGEST_NAME for line in legend)
    return short_ and len(legend) <= _MOST_NAMES


def _column(legend: Sequence[Line]) -> float:
    return _SAMPLE + 4 + _LETTER * max(len(line.name) for line in legend)


def _grid(across: Axis, up: Axis, x: str, y: str) -> str:
    base = HEIGHT - _BOTTOM
    out = [
        f'<line class="grid" x1="{_LEFT}" x2="{across.end:.1f}" y1="{up(v):.1f}"'
        f' y2="{up(v):.1f}"/><text x="{_LEFT - 6}" y="{up(v) + 4:.1f}"'
        f' text-anchor="end">{text}</text>'
        for v, text in up.ticks()
    ]
    out += [
        f'<line class="axis" x1="{across(v):.1f}" x2="{across(v):.1f}" y1="{base}"'
        f' y2="{base + 4}"/><text x="{across(v):.1f}" y="{base + 17}"'
        f' text-anchor="middle">{text}</text>'
        for v, text in across.ticks()
    ]
    out.append(
        f'<line class="axis" x1="{_LEFT}" x2="{across.end:.1f}" y1="{base}"'
        f' y2="{base}"/><text class="unit" x="2" y="12">{escape(y)}</text>'
        f'<text class="unit" x="{across.end:.1f}" y="{HEIGHT - 6}"'
        f' text-anchor="end">{escape(x)}</text>'
    )
    return "".join(out)


def _line(line: Line, across: Axis, up: Axis, x: str) -> str:
    places = [(across(px), up(py)) for px, py in line.points]
    out = ""
    if len(places) > 1 and line.joined:
        path = "M" + " L".join(f"{px:.1f},{py:.1f}" for px, py in places)
        out = _stroke(line, path)
    if (line.dots and not line.reference) or len(places) == 1:
        out += "".join(
            f'<path class="m d{colour(line.look)}" d="{marker(line.look, px, py)}">'
            f"<title>{escape(line.name)}, {escape(x)} {short(vx)}: {digits(vy)}</title>"
            "</path>"
            for (px, py), (vx, vy) in zip(places, line.points, strict=True)
        )
    return out


def _stroke(line: Line, path: str) -> str:
    return (
        f'<path class="l{colour(line.look)}"'
        f'{dash(line.look, reference=line.reference)} d="{path}"/>'
    )


def _sample(line: Line, x: float, y: float) -> str:
    """Return a piece of the line as it is drawn."""
    out = _stroke(line, f"M{x:.1f},{y:.1f} h{_SAMPLE}") if line.joined else ""
    if line.dots and not line.reference:
        at = marker(line.look, x + _SAMPLE / 2, y)
        out += f'<path class="m d{colour(line.look)}" d="{at}"/>'
    return out


def _names(legend: Sequence[Line], x: float, up: Axis) -> str:
    """Return the names at the ends of their lines, moved where they would overlap."""
    wanted = [up(line.points[-1][1]) for line in legend]
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + _APART) if places else place)
    lowest = HEIGHT - _BOTTOM
    for number in reversed(range(len(places))):
        places[number] = min(places[number], lowest)
        lowest = places[number] - _APART
    return "".join(
        f'{_sample(line, x, place)}<text class="name" x="{x + _SAMPLE + 4:.1f}"'
        f' y="{place + 4:.1f}">{escape(line.name)}</text>'
        for line, place in zip(legend, places, strict=True)
    )


def _keys(legend: Sequence[Line]) -> str:
    entries = "".join(
        f'<span><svg class="key" viewBox="0 0 {_SAMPLE} 12" aria-hidden="true">'
        f"{_sample(line, 0, 6)}</svg>{escape(line.name)}</span>"
        for line in legend
    )
    return f'<div class="legend">{entries}</div>'


def _mark(across: Axis, mark: tuple[float, str]) -> str:
    place, text = across(mark[0]), mark[1]
    late = place > (across.start + across.end) / 2
    anchor, shift = ("end", -5) if late else ("start", 5)
    return (
        f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}"'
        f' y2="{HEIGHT - _BOTTOM}"/><text class="marked" x="{place + shift:.1f}"'
        f' y="{HEIGHT - _BOTTOM - 8}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _said(drawn: Sequence[Line], x: str) -> str:
    """Return what a line does in words, for those who do not see it."""

    def of(line: Line) -> str:
        (first, begins), (last, ends) = line.points[0], line.points[-1]
        if line.reference or first == last:
            return f"{line.name} {ends:.4g}"
        top, most = max(line.points, key=lambda point: point[1])
        return (
            f"{line.name} from {begins:.4g} at {x} {short(first)} to {ends:.4g} at"
            f" {short(last)}, greatest {most:.4g} at {short(top)}"
        )

    return "; ".join(of(line) for line in drawn[:_MOST_NAMES])


def _numbers(title: str, drawn: Sequence[Line], x: str) -> str:
    """Return the numbers of a chart as a table to be opened."""
    measured = [line for line in drawn if not line.reference]
    if len({line.name for line in measured}) < len(measured):
        return ""
    known = [dict(line.points) for line in measured]
    xs = sorted({px for points in known for px in points})
    step = math.ceil(len(xs) / _MOST_ROWS)
    kept = [px for place, px in enumerate(xs) if (len(xs) - 1 - place) % step == 0]
    rows = [
        [short(px), *(digits(p[px]) if px in p else "" for p in known)] for px in kept
    ]
    head = [x, *(line.name for line in measured)]
    return f"<details><summary>Numbers</summary>{table(title, head, rows)}</details>"


def _values(title: str, drawn: Sequence[Line], x: str, y: str) -> str:
    """Return what was measured once; a single point makes no line."""
    rows = [
        (
            line.name if line.reference else f"{line.name}, {x} {short(px)}",
            digits(py),
        )
        for line in drawn
        for px, py in line.points[:1]
    ]
    return (
        '<p class="note">Measured once: there is no curve.</p>'
        f"{table(title, ('', y), rows)}"
    )
