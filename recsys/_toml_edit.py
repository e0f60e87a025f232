"""Setting keys of one table of a TOML file, with everything else left as it is.

The standard library reads TOML and does not write it. Lines are replaced or added, and
the result counts only when it then says exactly what was wanted.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from recsys._toml import literal
from recsys.errors import ConfigError

Value = int | float | str | bool

_HEADER = re.compile(r"^\s*\[\[?\s*(?P<name>[^\]]+?)\s*\]\]?\s*(#.*)?$")
_BY_HAND = "Set the lines by hand."


def snippet(table: str, values: Mapping[str, Value]) -> str:
    """Return a table with some keys as TOML."""
    lines = [f"{name} = {literal(value)}" for name, value in values.items()]
    return "\n".join([f"[{table}]", *lines])


def edited(text: str, table: str, values: Mapping[str, Value]) -> str:
    """Return a TOML text with keys of one table set; comments and order stay.

    Args:
        text: The file.
        table: Dotted name of a table, such as "model.shop.train".
        values: What to set.

    Raises:
        ConfigError: The table is written in a way that cannot be edited by line.
    """
    lines = text.splitlines()
    begin, end = _section(lines, table)
    if begin is None:
        lines += ["", *snippet(table, values).splitlines()]
    else:
        for name, value in values.items():
            key = re.compile(rf"^(\s*{re.escape(name)}\s*=\s*)([^#]*?)(\s*(?:#.*)?)$")
            for place in range(begin + 1, end):
                if match := key.match(lines[place]):
                    # A function: the value may hold what a pattern would read.
                    lines[place] = f"{match[1]}{literal(value)}{match[3]}"
                    break
            else:
                last = _last_used(lines, begin, end)
                lines.insert(last + 1, f"{name} = {literal(value)}")
                end += 1
    result = "\n".join(lines) + "\n"
    if not _says(result, text, table, values):
        raise ConfigError(
            f"[{table}] is written in a way that is not edited here", hint=_BY_HAND
        )
    return result


def diff(before: str, after: str, name: str) -> str:
    """Return the change of a file as a unified diff."""
    return "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            name,
            name,
            n=2,
        )
    )


def replace(path: Path, before: str, after: str) -> None:
    """Write the file at once, unless somebody changed it meanwhile.

    Raises:
        ConfigError: It changed, or cannot be written.
    """
    try:
        if path.read_text(encoding="utf-8") != before:
            raise ConfigError(f"{path} was changed meanwhile", hint=_BY_HAND)
        folder = path.resolve().parent
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(after)
            os.chmod(name, path.stat().st_mode & 0o7777)
            os.replace(name, path.resolve())
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise ConfigError(
            f"cannot write {path}: {exc.strerror}", hint=_BY_HAND
        ) from exc


def _section(lines: list[str], table: str) -> tuple[int | None, int]:
    """Return the line of the table's header and the end of its lines."""
    wanted = table.split(".")
    begin: int | None = None
    for place, line in enumerate(lines):
        header = _HEADER.match(line)
        if header is None:
            continue
        if begin is not None:
            return begin, place
        parts = [part.strip().strip("\"'") for part in header["name"].split(".")]
        if parts == wanted:
            begin = place
    return begin, len(lines)


def _last_used(lines: list[str], begin: int, end: int) -> int:
    """Return the last line of a section that is not blank or a remark."""
    for place in range(end - 1, begin, -1):
        if lines[place].strip() and not lines[place].lstrip().startswith("#"):
            return place
    return begin


def _says(after: str, before: str, table: str, values: Mapping[str, Value]) -> bool:
    """Whether the new text is the old one with the values, and nothing else."""
    try:
        wanted, found = tomllib.loads(before), tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        return False
    part: dict[str, Any] = wanted
    for name in table.split("."):
        part = cast(dict[str, Any], part.setdefault(name, {}))
    part.update(values)
    return wanted == found
