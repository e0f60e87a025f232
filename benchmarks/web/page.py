"""Write measured rows into a page: ``python -m benchmarks.web.page ROWS [PAGE]``.

ROWS is what ``python -m benchmarks.web --out`` appended; of rows measured twice the
last counts. A table stands between ``<!-- bench NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent.parent / "docs" / "performance.md"
_VIEWS = ("bare SQL", "recommend()")
_ONE_ROW = re.compile(r"<!-- bench (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def tables(lines: Iterable[str]) -> dict[str, str]:
    """Return the tables in Markdown by name."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for row in map(json.loads, lines):
        title = row["table"].split(":")[0]
        name = row["what"] if "what" in row else f"{row['filter']}/{row['engine']}"
        # Last one counts, and it stands where it was measured last.
        rows.setdefault(title, {}).pop(name, None)
        rows[title][name] = row
    engines = rows.pop("engines", {})
    ratio = "requests/s: recommend() / bare SQL"
    requests = {name: table for name, table in rows.items() if ratio in table}
    others = [row for name, table in rows.items() if name not in requests
              for row in table.values()]  # fmt: skip
    return {
        "requests": _requests(requests, ratio),
        "engines": _engines(engines.values()),
        "costs": _markdown(
            ("", "measured"),
            [(row["what"], f"{row['value']:.3g} {row['unit']}") for row in others],
        ),
    }


def _requests(found: dict[str, dict[str, dict[str, Any]]], ratio: str) -> str:
    head = ("request", "view", "requests/s", "p50 ms", "p99 ms", "recall@20", "short")
    lines: list[Sequence[str]] = []
    for name, table in found.items():
        for view in _VIEWS:
            measured = {
                key: table[f"{view}: {key}"]["value"]
                for key in ("requests/s", "p50", "p99", "recall@20", "short")
            }
            share = f"{table[ratio]['value']:.2f} x" if view != _VIEWS[0] else ""
            lines.append(
                (
                    name if view == _VIEWS[0] else "",
                    f"`{view}`" if "(" in view else view,
                    f"{measured['requests/s']:,.0f}",
                    f"{measured['p50']:.3g}",
                    f"{measured['p99']:.3g}",
                    f"{measured['recall@20']:.3f}",
                    f"{measured['short']:.1f} %",
                    share,
                )
            )
    return _markdown((*head, "ratio"), lines)


def _engines(rows: Iterable[dict[str, Any]]) -> str:
    order = ("none", "10 %", "1 %")
    head = ("filter", "engine", "queries/s", "p50 ms", "p99 ms", "recall@20", "short")
    lines: list[Sequence[str]] = []
    ranked = sorted(rows, key=lambda r: (order.index(r["filter"]), -r["qps"]))
    for row in ranked:
        first = not lines or row["filter"] != ranked[len(lines) - 1]["filter"]
        qps = f"{row['qps']:,.0f}" if row["qps"] >= 10 else f"{row['qps']:.2g}"
        lines.append(
            (
                row["filter"] if first else "",
                f"`{row['engine']}`" if "(" in row["engine"] else row["engine"],
                qps,
                f"{row['p50']:.3g}",
                f"{row['p99']:.3g}",
                f"{row['recall']:.3f}",
                f"{100 * row['short']:.1f} %",
            )
        )
    return _markdown(head, lines)


def _markdown(head: Sequence[str], lines: list[Sequence[str]]) -> str:
    marks = ["---", "---", *["---:"] * (len(head) - 2)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, marks, *lines))


def main() -> None:
    """Replace the tables of a page that were measured."""
    found = tables(Path(sys.argv[1]).read_text().splitlines())
    page = Path(sys.argv[2]) if len(sys.argv) > 2 else PAGE

    def filled(match: re.Match[str]) -> str:
        table = found.get(match[1], "")
        measured = table.count("\n") > 1
        return (
            f"<!-- bench {match[1]} -->\n{table}\n<!-- end -->"
            if measured
            else match[0]
        )

    page.write_text(_ONE_ROW.sub(filled, page.read_text()))


if __name__ == "__main__":
    main()
