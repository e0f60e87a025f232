"""Tables of measurements, each with its target and whether it was met."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measurement; ``target`` is the largest or, with ``least``, smallest good."""

    what: str
    value: float
    unit: str
    target: float | None = None
    least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Say whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.least else self.value <= self.target


def show(title: str, rows: list[Row], out: Path | None = None) -> None:
    """Print a table; append it as JSON lines to ``out``."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("what", "value", "target", "met", "note"):
        table.add_column(name, justify="right" if name in ("value", "target") else None)
    for row in rows:
        limit = (
            "" if row.target is None else f"{'≥' if row.least else '≤'} {row.target}"
        )
        met = {None: "", True: "yes", False: "NO"}[row.met]
        table.add_row(row.what, f"{row.value:.4g} {row.unit}", limit, met, row.note)
    Console(width=150).print(table)
    if out:
        with out.open("a") as file:
            for row in rows:
                file.write(json.dumps({"table": title, **asdict(row)}) + "\n")
