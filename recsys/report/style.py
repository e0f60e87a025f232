"""The look of a report: light and dark, from a phone to a desk, and on paper."""

from recsys.report.palette import COLOURS, DARK, LIGHT, variables

STYLE = (
    f"""
:root {{ {variables(LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: .95rem; margin: 0 0 .5rem; }
h4 { font-size: .95rem; margin: 0; }
section > h3 { margin-top: 1.25rem; }
p { margin: .4rem 0; max-width: 48rem; } .quiet, .note { color: var(--quiet); }
.note { font-size: .82rem; line-height: 1.4; margin: 0 0 .5rem; }
code { font: .95em ui-monospace, Menlo, monospace; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .88rem;
  margin: .25rem 0 .75rem; }
nav a { color: var(--c1); padding: .15rem 0; }
.badge { display: inline-block; padding: .05rem .6rem; border-radius: 1rem;
  border: 1px solid var(--rule); color: var(--quiet); font-size: .8rem;
  vertical-align: middle; margin-left: .5rem; }
.grid { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); }
.grid + .grid, .grid + .card, .card + .grid, section > .card + .card
  { margin-top: 1rem; }
.stack { columns: 25rem; column-gap: 1rem; }
.tiles { display: grid; gap: .75rem; margin: 1.25rem 0 .75rem;
  grid-template-columns: repeat(auto-fit, minmax(min(45%, 10rem), 1fr)); }
.tile, figure, .card { background: var(--card); border: 1px solid var(--rule);
  border-radius: .6rem; padding: .9rem 1rem; margin: 0; min-width: 0; }
.stack > .card { break-inside: avoid; margin-bottom: 1rem; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tile small { color: var(--quiet); display: block; }
.verdict { border-left: .3rem solid var(--bad); background: var(--bad-paper);
  padding: .6rem 1rem; border-radius: .3rem; margin: .6rem 0; }
.verdict.good { border-color: var(--good); background: var(--good-paper); }
.verdict b { display: inline-block; }
.verdict b::first-letter { text-transform: uppercase; }
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .35rem; }
svg.chart { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 11px system-ui, sans-serif; fill: var(--quiet); }
svg .v, svg .name, svg .marked { fill: var(--ink); }
svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--axis); }
svg .mark { stroke: var(--quiet); stroke-dasharray: 3 3; }
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg path.m { stroke: var(--card); stroke-width: 1; }
svg.key { height: .75rem; width: auto; margin-right: .4rem; vertical-align: -.06rem; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; font-size: .82rem;
  margin-bottom: .35rem; }
details { font-size: .85rem; margin-top: .35rem; }
summary { color: var(--quiet); cursor: pointer; }
/* Shadows at the sides where a table goes on; the card covers them at its ends. */
.scroll { overflow-x: auto; background:
  linear-gradient(to right, var(--card) 40%, transparent) left / 2rem 100% local,
  linear-gradient(to left, var(--card) 40%, transparent) right / 2rem 100% local,
  linear-gradient(to right, var(--shade), transparent) left / .75rem 100% scroll,
  linear-gradient(to left, var(--shade), transparent) right / .75rem 100% scroll;
  background-repeat: no-repeat; }
table { border-collapse: collapse; font-size: .88rem; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 0 .3rem 1rem; border-bottom: 1px solid var(--rule);
  text-align: right; white-space: nowrap; vertical-align: top; }
thead th { color: var(--quiet); font-weight: 600; }
tbody th { font-weight: 400; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th.t, td.t { text-align: left; }
tbody tr:last-child > * { border-bottom: 0; }
tr.best > * { font-weight: 600; }
.lists { display: grid; gap: .5rem 1.25rem; font-size: .86rem; margin-top: .5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); }
.lists ol, .lists ul { margin: 0; padding-left: 1.7rem; overflow-wrap: anywhere; }
.lists b { color: var(--quiet); font-weight: 600; font-size: .82rem; }
small bdi { display: inline-block; }
small bdi:not(:last-child)::after { content: ","; }
.lists small { color: var(--quiet); display: block; line-height: 1.3; }
.lists .hit > bdi { font-weight: 600; }
.tick { color: var(--good); white-space: nowrap; }
.sample { margin-bottom: .75rem; }
:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
@media (max-width: 30rem) { svg text { font-size: 14px; }
  svg .name, svg .v { font-size: 12.5px; }
  tbody th { white-space: normal; min-width: 6.5rem; } }
@media print { nav { display: none; } figure, .card, .tile { break-inside: avoid; }
  h2, h3 { break-after: avoid; } }
"""
    + "\n".join(
        f".l{n} {{ stroke: var(--c{n}); }} .d{n}, .b{n} {{ fill: var(--c{n}); }}"
        for n in range(COLOURS + 1)
    )
)
