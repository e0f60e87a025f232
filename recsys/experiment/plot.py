"""An experiment as one HTML file without anything to load: its course over the days."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from recsys.errors import ConfigError
from recsys.experiment.report import Report, Result, signed

Course = Sequence[tuple[datetime, Sequence[Result]]]

_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 12, 12, 34
_STYLE = """
:root { --line: #2563eb; --grid: #d0d7de; --bad: #b42318; --quiet: #57606a; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; margin: 2rem auto;
       max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem; }
p.verdict { border-left: .3rem solid var(--line); padding: .5rem 1rem;
            background: #f6f8fa; }
p.alarm { border-color: var(--bad); color: var(--bad); font-weight: 600; }
.quiet { color: var(--quiet); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--grid);
         text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif;
      fill: var(--quiet); }
.sequence { fill: var(--line); opacity: .16; }
.fixed { fill: none; stroke: var(--line); stroke-dasharray: 3 4; opacity: .7; }
.estimate { fill: none; stroke: var(--line); stroke-width: 2; }
.zero { stroke: #1f2328; } .grid { stroke: var(--grid); }
@media (prefers-color-scheme: dark) {
  body { background: #0d1117; color: #e6edf3; } p.verdict { background: #161b22; }
  :root { --grid: #30363d; --line: #6ea8fe; --quiet: #9198a1; --bad: #ff7b72; }
  .zero { stroke: #e6edf3; } }
"""


def write(path: Path, report: Report, course: Course) -> None:
    """Write the page.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        path.write_text(page(report, course), encoding="utf-8")
    except OSError as exc:
        raise ConfigError(
            f"cannot write {path}: {exc.strerror}", hint="Choose another file."
        ) from exc


def page(report: Report, course: Course) -> str:
    """Return the page as HTML: the verdict, a chart per metric and treatment, numbers.

    Args:
        report: The experiment now.
        course: Its results at several times, oldest first.
    """
    planned = report.experiment
    alarm = f'<p class="verdict alarm">{escape(report.mismatch)}</p>'
    charts = "\n".join(
        f"<h2>{escape(r.metric)}: {escape(r.arm)} against the control</h2>\n"
        + _chart(course, r)
        for r in report.results
        if not r.is_control
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(planned.experiment)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(planned.experiment)}</h1>
<p class="quiet">{escape(planned.model)}, {escape(planned.state)},
{escape(planned.arms)}, {planned.traffic:f} % of the users.
{escape(planned.hypothesis)}</p>
{alarm if report.mismatch else ""}
<p class="verdict">{escape(report.verdict)}</p>
<p class="quiet">The band is the confidence sequence: it may be read every day, and
a difference is proven once it leaves zero. The dashed lines are the fixed interval,
right only at an end that was planned beforehand.</p>
{charts}
<h2>Users</h2>
{_users(report)}
</body>
</html>
"""


def _chart(course: Course, last: Result) -> str:
    """Return the course of one treatment in one metric as SVG."""
    relative = last.lift is not None
    points = [
        (time, row)
        for time, rows in course
        for row in rows
        if row.metric == last.metric and row.arm == last.arm and not row.note
    ]
    points = [p for p in points if None not in _values(p[1], relative)[:3]]
    if len(points) < 2:
        return f'<p class="quiet">{escape(last.note or "too few days to draw")}</p>'
    values = [_values(row, relative) for _, row in points]
    x = _scale(points[0][0].timestamp(), points[-1][0].timestamp(), _LEFT,
               _WIDTH - _RIGHT)  # fmt: skip
    # The first days are wide and say little: the later half sets the scale.
    late = values[len(values) // 2 :]
    bounds = [v for row in late for v in row if v is not None]
    low, high = min(*bounds, 0.0), max(*bounds, 0.0)
    margin = 0.15 * (high - low)
    y = _scale(low - margin, high + margin, _HEIGHT - _BOTTOM, _TOP)
    places = [x(time.timestamp()) for time, _ in points]
    banded = [(p, v) for p, v in zip(places, values, strict=True) if v[3] is not None]
    name = f"{last.metric}-{last.arm}"
    band = _path([(p, y(v[4] or 0)) for p, v in banded]
                 + [(p, y(v[3] or 0)) for p, v in reversed(banded)])  # fmt: skip
    lines = "".join(
        f'<path class="{kind}" d="{_path([(p, y(v[i] or 0)) for p, v in drawn])}"/>'
        for i, kind in ((1, "fixed"), (2, "fixed"), (0, "estimate"))
        for drawn in [list(zip(places, values, strict=True))]
    )
    return (
        f'<svg role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-label="'
        f'{escape(name)}: difference to the control over time">'
        f'<clipPath id="{escape(name)}"><rect x="{_LEFT}" y="{_TOP}"'
        f' width="{_WIDTH - _LEFT - _RIGHT}" height="{_HEIGHT - _TOP - _BOTTOM}"/>'
        f"</clipPath>{_axes(points, x, y, (low, high), relative)}"
        f'<g clip-path="url(#{escape(name)})">'
        f'<path class="sequence" d="{band}"/>{lines}</g></svg>'
    )


def _values(row: Result, relative: bool) -> tuple[float | None, ...]:
    """Return estimate, fixed interval and sequence of a row."""
    if relative:
        return (row.lift, row.lift_low, row.lift_high, row.lift_sequence_low,
                row.lift_sequence_high)  # fmt: skip
    return row.difference, row.low, row.high, row.sequence_low, row.sequence_high


def _scale(
    first: float, last: float, start: float, end: float
) -> Callable[[float], float]:
    span = (last - first) or 1.0
    return lambda value: start + (value - first) / span * (end - start)


def _path(points: Sequence[tuple[float, float]]) -> str:
    # Far outside the picture some renderers give up.
    inside = [(x, max(-9_999.0, min(y, 9_999.0))) for x, y in points]
    return "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in inside) if inside else ""


def _axes(
    points: Sequence[tuple[datetime, Result]],
    x: Callable[[float], float],
    y: Callable[[float], float],
    range_: tuple[float, float],
    relative: bool,
) -> str:
    low, high = range_
    marks = {low, (low + high) / 2, high}
    marks = {v for v in marks if abs(y(v) - y(0)) > 14}  # its label has room
    drawn = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(v):.1f}"'
        f' y2="{y(v):.1f}"/><text x="{_LEFT - 6}" y="{y(v) + 4:.1f}"'
        f' text-anchor="end">{signed(v, relative)}</text>'
        for v in sorted(marks)
    ]
    drawn.append(
        f'<line class="zero" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(0):.1f}"'
        f' y2="{y(0):.1f}"/><text x="{_LEFT - 6}" y="{y(0) + 4:.1f}"'
        ' text-anchor="end">0</text>'
    )
    span = points[-1][0] - points[0][0]
    form = "%Y-%m-%d" if span.days >= 2 else "%m-%d %H:%M"
    for (time, row), anchor in ((points[0], "start"), (points[-1], "end")):
        drawn.append(
            f'<text x="{x(time.timestamp()):.1f}" y="{_HEIGHT - 10}"'
            f' text-anchor="{anchor}">{time:{form}}, {row.users:,} users</text>'
        )
    return "".join(drawn)


def _users(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{escape(arm.arm)}</td><td>{arm.share:f} %</td>"
        f"<td>{arm.users:,}</td><td>{arm.expected or 0:,.0f}</td></tr>"
        for arm in report.health
    )
    return (
        "<table><tr><th>arm</th><th>share</th><th>users</th><th>expected</th></tr>"
        f"{rows}</table>"
    )
