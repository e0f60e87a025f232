"""Rows as a table, CSV or JSON on stdout."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar, cast
from uuid import UUID

import click
from rich import box
from rich.console import Console
from rich.table import Table

F = TypeVar("F", bound=Callable[..., Any])
Row = dict[str, Any]

METRIC = ("model", "number", "slice", "method", "metric", "value")
"""Columns of ``metric_rows``."""

_format = click.option(
    "--format",
    "fmt",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="How rows are printed on stdout.",
)


def format_option(command: F) -> F:
    """Give a command the option --format."""
    return _format(command)


def metric_rows(
    model: str, number: int, metrics: Mapping[str, Mapping[str, Any]]
) -> list[Row]:
    """Return the metrics of a version, one a row.

    Args:
        model: Name of the model.
        number: The version.
        metrics: Slice -> method -> metric.
    """
    return [
        {"model": model, "number": number, "slice": slice_name, "method": method,
         "metric": name, "value": value}
        for slice_name, methods in metrics.items()
        for method, values in methods.items() if isinstance(values, Mapping)
        for name, value in cast(Mapping[str, float], values).items()
    ]  # fmt: skip


def write_metrics(
    model: str, number: int, metrics: Mapping[str, Mapping[str, Any]], fmt: str
) -> None:
    """Print the metrics of a version: one a row, or as a table one method a row.

    Args:
        model: Name of the model.
        number: The version.
        metrics: Slice -> method -> metric.
        fmt: "table", "csv" or "json".
    """
    rows = metric_rows(model, number, metrics)
    if fmt != "table":
        write_rows(rows, fmt, columns=METRIC)
        return
    for table in _by_method(rows):
        write_rows(table, fmt)


def _by_method(rows: Sequence[Row]) -> list[list[Row]]:
    """Return one row for each slice and method; a table for what has other metrics."""
    wide: dict[tuple[str, str], Row] = {}
    for row in rows:
        values = wide.setdefault((row["slice"], row["method"]), {})
        count = row["metric"] == "users"
        values[row["metric"]] = int(row["value"]) if count else row["value"]
    tables: list[list[Row]] = []
    for (slice_name, method), values in wide.items():
        row = {"slice": slice_name, "method": method, **values}
        for table in tables:
            if table[0].keys() & values.keys():
                table.append(row)
                break
        else:
            tables.append([row])
    return [_aligned(table) for table in tables]


def _aligned(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the same keys, in the order in which they first appear."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def write_rows(rows: Sequence[Row], fmt: str, *, columns: Sequence[str] = ()) -> None:
    """Print rows, all with the same keys, on stdout.

    Args:
        rows: The rows.
        fmt: "table", "csv" or "json".
        columns: Names to print and their order; needed when there may be no rows.
            A table leaves out those that start with "*".
    """
    wanted = list(columns) or (list(rows[0]) if rows else [])
    if fmt == "table":
        wanted = [name for name in wanted if not name.startswith("*")]
    names = [name.removeprefix("*") for name in wanted]
    if fmt == "json":
        plain = [{name: _plain(row[name]) for name in names} for row in rows]
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
    elif fmt == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[_plain(row[name]) for name in names] for row in rows])
    else:
        # A pipe has no width; folding rows would only make them hard to read.
        console = Console() if sys.stdout.isatty() else Console(width=160)
        console.print(_table(rows, names))


def _table(rows: Sequence[Row], names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        number = any(isinstance(row[name], int | float | Decimal) for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        # Five digits say enough, and keep a table of many columns narrow.
        size = abs(value)
        return f"{value:.{4 if size < 10 else 2 if size < 1000 else 0}f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return str(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, timedelta):
        return round(value.total_seconds(), 1)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value
