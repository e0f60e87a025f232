"""The look of a report: light and dark, from a phone to a desk, and on paper."""

STYLE = """
:root { --paper: #fbfbfa; --card: #ffffff; --ink: #1c2024; --quiet: #60676f;
  --rule: #e2e5e9; --grid: #edeff2; --good: #1a7f4b; --bad: #b3261e;
  --good-paper: #e9f6ee; --bad-paper: #fdeeec;
  --c1: #2458d3; --c2: #d9730d; --c3: #2f855a; --c4: #9333ea; --c5: #c2255c;
  --c6: #0b7285; --c0: #c3c8cf; }
@media (prefers-color-scheme: dark) { :root { --paper: #101214; --card: #181b1f;
  --ink: #e8eaed; --quiet: #9aa3ad; --rule: #2b3036; --grid: #23282e;
  --good: #5ecb8f; --bad: #ff8a80; --good-paper: #13261b; --bad-paper: #2c1614;
  --c1: #7aa2ff; --c2: #ffa94d; --c3: #69db7c; --c4: #c99bff; --c5: #ff8fb1;
  --c6: #66d9e8; --c0: #4a515a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: .95rem; margin: 0 0 .5rem; }
p { margin: .4rem 0; max-width: 48rem; } .quiet { color: var(--quiet); }
code { font: .9em ui-monospace, Menlo, monospace; }
.badge { display: inline-block; padding: .05rem .6rem; border-radius: 1rem;
  border: 1px solid var(--rule); color: var(--quiet); font-size: .8rem;
  vertical-align: middle; margin-left: .5rem; }
.grid { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); }
.grid + .grid, .grid + .card, .card + .grid { margin-top: 1rem; }
.tiles { display: grid; gap: .75rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 11rem), 1fr)); }
.tile, figure, .card { background: var(--card); border: 1px solid var(--rule);
  border-radius: .6rem; padding: .9rem 1rem; margin: 0; min-width: 0; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tile small { color: var(--quiet); display: block; }
.verdict { border-left: .3rem solid var(--bad); background: var(--bad-paper);
  padding: .6rem 1rem; border-radius: .3rem; margin: .6rem 0; }
.verdict.good { border-color: var(--good); background: var(--good-paper); }
.verdict b::first-letter { text-transform: uppercase; }
figcaption { font-weight: 600; font-size: .92rem; margin-bottom: .35rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--quiet); }
svg .v { fill: var(--ink); font-size: 10px; }
svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--rule); }
svg .mark { stroke: var(--quiet); stroke-dasharray: 3 3; }
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .8rem;
  color: var(--quiet); margin-bottom: .35rem; }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: .2rem;
  margin-right: .35rem; vertical-align: -.05rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--rule);
  text-align: right; white-space: nowrap; vertical-align: top; }
th { color: var(--quiet); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
tr.best td { font-weight: 600; }
.lists { display: grid; gap: .25rem 1.25rem; font-size: .86rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); }
.lists ol, .lists ul { margin: 0; padding-left: 1.4rem; overflow-wrap: anywhere; }
.lists b { font-weight: 600; color: var(--quiet); font-size: .8rem; }
.lists li.hit { color: var(--good); font-weight: 600; }
.lists li.hit::after { content: " \\2713"; }
.sample { margin-bottom: .75rem; }
@media print { figure, .card, .tile { break-inside: avoid; } }
""" + "\n".join(
    f".l{n} {{ stroke: var(--c{n}); }} .d{n}, .b{n} {{ fill: var(--c{n}); }}"
    f" .k{n} {{ background: var(--c{n}); }}"
    for n in range(7)
)
