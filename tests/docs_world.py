"""Runs the code blocks of the documentation, page by page.

What a fenced block means:

    sql       runs on the page's database; a `text` block right after it is its output
    python    runs in one namespace per page; a `text` block right after it is stdout
    console   lines with `$ ` are commands, the rest is their output; `recsys` runs
              inside this process, everything else in bash
    toml      must be a valid recsys.toml; with `file:` it is also written
    csv, html is written to its `file:`
    text      output of the block before it

A comment right before a block directs it: `<!-- file: NAME -->` writes it to a file of
the page's folder (Python is then not run), `<!-- append: NAME -->` adds it to one,
`<!-- exact -->` compares output literally, `<!-- skip: REASON -->`
leaves it out.

Output is compared loosely: a table by its column names and number of rows, other lines
with every number masked. `...` stands for any lines. Progress lines are left out.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote, urlencode

import psycopg
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine

from recsys import Recommender
from recsys.cli import app, bars
from recsys.config import from_mapping

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = ("sql", "python", "console", "toml", "csv", "html", "text")

_FENCE = re.compile(r"^```(\w*)\s*$")
_COMMENT = re.compile(r"^<!-- (file|append|skip|exact|part)(?:: (.*))? -->$")
_PROGRESS = re.compile(r"^  \S.*: \d+\.\d s( \(.*\))?$")
_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?([eE]-?\d+)?")
_RULE = re.compile(r"^[\s─━+-]*(─{3}|-{3})[\s─━+-]*$")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, what it says, what the comment before says."""

    page: Path
    line: int
    language: str
    text: str
    directives: dict[str, str] = field(default_factory=dict)
    follows: bool = False  # nothing but blank lines since the block before

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def skipped(self) -> str | None:
        return self.directives.get("skip")


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    found: list[Block] = []
    directives: dict[str, str] = {}
    follows = False
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        if comment := _COMMENT.match(line):
            directives[comment[1]] = comment[2] or ""
        elif fence := _FENCE.match(line):
            body = []
            for _, inner in lines:
                if inner.startswith("```"):
                    break
                body.append(inner)
            text = "\n".join(body)
            found.append(Block(page, number, fence[1], text, directives, follows))
            directives, follows = {}, True
        elif line.strip():
            directives, follows = {}, False
    return found


@dataclass
class Page:
    """One page while it runs: a database, a folder, a Python namespace."""

    dsn: str
    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def run(self, page: Path) -> None:
        """Run every block; a failure does not hide the next ones."""
        found = blocks(page)
        with self.inside():
            for index, block in enumerate(found):
                if block.skipped is not None or block.language == "text":
                    continue
                after = found[index + 1] if index + 1 < len(found) else None
                wanted = (
                    after if after and after.follows and after.language == "text"
                    else None
                )  # fmt: skip
                try:
                    self.run_block(block, wanted)
                except Exception as exc:
                    self.failures.append(f"{block.place} {type(exc).__name__}: {exc}")

    def close(self) -> None:
        """Close what the Python blocks left open."""
        for value in self.names.values():
            if isinstance(value, Recommender | psycopg.Connection):
                value.close()
            elif isinstance(value, Engine):
                value.dispose()
            elif isinstance(value, SQLAlchemy):
                with self.names["app"].app_context():
                    value.engine.dispose()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Work in the page's folder, with its database in the environment."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "REC"))}
        # Set: the command line does not replace this process to get them.
        settings = {
            "RECSYS_DSN": self.dsn,
            "DATABASE_URL": _url(self.dsn),
            "MALLOC_MMAP_MAX_": "0",
            # Threads that fight other processes for two cores are ten times slower.
            "OMP_NUM_THREADS": "1",
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        before = Path.cwd()
        width = bars.console.width
        os.chdir(self.folder)
        sys.path.insert(0, str(self.folder))  # a page may import what it has written
        bars.console.width = 200
        try:
            with mock.patch.dict(
                os.environ, {**kept, **settings, "PATH": path}, clear=True
            ):
                yield
        finally:
            os.chdir(before)
            sys.path.remove(str(self.folder))
            for name, module in list(sys.modules.items()):
                file = getattr(module, "__file__", None) or ""
                if file.startswith(f"{self.folder}{os.sep}"):
                    del sys.modules[name]
            bars.console.width = width

    def run_block(self, block: Block, wanted: Block | None) -> None:
        """Run one block and compare what it prints."""
        if name := block.directives.get("file"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(block.text + "\n", encoding="utf-8")
        if name := block.directives.get("append"):
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(f"\n{block.text}\n")
        match block.language:
            case "python" if {"file", "append"} & set(block.directives):
                pass
            case "sql":
                self._compare(block, wanted, self._sql(block.text))
            case "python":
                self._compare(block, wanted, self._python(block))
            case "console":
                self._console(block)
            case "toml":
                self._toml(block)
            case "csv" | "html" if block.directives.get("file"):
                pass
            case other:
                raise AssertionError(f"nobody runs a {other or 'plain'} block")

    def _sql(self, text: str) -> str:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            cursor = conn.execute(text.encode())
            result = ""
            while True:
                if cursor.description:
                    names = [column.name for column in cursor.description]
                    result = _aligned(names, cursor.fetchall())
                if not cursor.nextset():
                    return result

    def _python(self, block: Block) -> str:
        # Not with this module's "annotations": a page has its own.
        code = compile(block.text, block.place, "exec", dont_inherit=True)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, self.names)
        return out.getvalue()

    def _console(self, block: Block) -> None:
        for command, wanted in _commands(block.text):
            code, output = self._shell(command)
            expected = Block(block.page, block.line, "text", wanted, block.directives)
            self._compare(block, expected, output, what=command)
            if (code != 0) != ("Error:" in wanted or " fail " in wanted):
                raise AssertionError(f"'{command}' ended with {code}:\n{output}")

    def _shell(self, command: str) -> tuple[int, str]:
        tokens = list(shlex.shlex(command, posix=True, punctuation_chars=True))
        plain = not any(set(token) <= set("|<>&;()") for token in tokens if token)
        if plain and command.startswith("recsys ") and "$" not in command:
            return _recsys(shlex.split(command)[1:])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def _toml(self, block: Block) -> None:
        data = tomllib.loads(block.text)
        if "part" in block.directives:
            # A fragment: the tables of one model, completed to a whole file.
            model = data.setdefault("model", {}).setdefault("shop", {})
            for needed in ("items", "interactions"):
                model.setdefault(needed, {}).setdefault("sql", "select 1")
        from_mapping(data)

    def _compare(
        self, block: Block, wanted: Block | None, actual: str, what: str = ""
    ) -> None:
        if wanted is None:
            return
        exact = "exact" in wanted.directives
        actual = actual.replace(f"{self.folder}/", "")
        found = [x for x in actual.splitlines() if not _PROGRESS.match(x)]
        if not _matches(_shape(wanted.text, exact), _shape("\n".join(found), exact)):
            shown = "\n".join(line.rstrip() for line in found).strip("\n")
            raise AssertionError(f"{what}\nshows\n{wanted.text}\nbut is\n{shown}")


def _url(dsn: str) -> str:
    """Return a connection string as the URL that web frameworks want."""
    parts = dict(psycopg.conninfo.conninfo_to_dict(dsn))
    user, name = quote(str(parts.pop("user", ""))), quote(str(parts.pop("dbname")))
    return f"postgresql+psycopg://{user}@/{name}?{urlencode(parts)}"


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with the output shown for it."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("$ "):
        raise AssertionError("a console block starts with '$ '")
    while lines:
        command = lines.pop(0)[2:]
        while command.endswith("\\"):
            command = command[:-1] + lines.pop(0).strip()
        shown = []
        while lines and not lines[0].startswith("$ "):
            shown.append(lines.pop(0))
        yield command, "\n".join(shown)


def _recsys(arguments: list[str]) -> tuple[int, str]:
    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["recsys", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        try:
            app.run()
        except SystemExit as exc:
            if isinstance(exc.code, str):
                print(exc.code)
            return (exc.code if isinstance(exc.code, int) else 1), out.getvalue()
    return 0, out.getvalue()


def _aligned(names: list[str], rows: Iterable[tuple[Any, ...]]) -> str:
    """Return rows as psql prints them."""
    table = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *table, strict=True)]
    pad = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (names, *table)
    ]
    rule = "-+-".join("-" * width for width in widths)
    count = f"({len(table)} row{'' if len(table) == 1 else 's'})"
    return "\n".join(
        [f" {pad[0]}", f"-{rule}-", *(f" {line}" for line in pad[1:]), count]
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, dict):
        return json.dumps(value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _shape(text: str, exact: bool) -> list[str]:
    """Return the lines that two outputs must share."""
    lines = [" ".join(line.split()) for line in text.strip("\n").splitlines()]
    lines = [line for line in lines if line]
    if exact:
        return lines
    shape: list[str] = []
    in_table = False
    for i, line in enumerate(lines):
        header = i + 1 < len(lines) and _RULE.match(lines[i + 1])
        if header or _RULE.match(line):
            in_table = True
            shape.append(line if header else "---")
        elif line == "...":
            shape.append(line)
        elif in_table and not re.match(r"\(\d+ rows?\)|\S+( \d+)?: |Next: ", line):
            shape.append("row")
        else:
            shape.append(_NUMBER.sub("#", line))
    return shape


def _matches(wanted: list[str], found: list[str]) -> bool:
    """Compare shapes; "..." stands for any lines."""
    if not wanted:
        return not found
    if wanted[0] == "...":
        return any(_matches(wanted[1:], found[i:]) for i in range(len(found) + 1))
    return bool(found) and wanted[0] == found[0] and _matches(wanted[1:], found[1:])
