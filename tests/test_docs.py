"""The documentation is true: every block runs, everything public is described."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import docs_world
import psycopg
import pytest
from docs_world import PAGES, ROOT
from psycopg import sql

from recsys import Recommender, config
from recsys.cli.app import cli

QUICKSTART = ROOT / "docs" / "quickstart.md"
ROLLOUT = ROOT / "docs" / "rollout.md"
FLASK = ROOT / "docs" / "flask.md"
DJANGO = ROOT / "docs" / "django.md"  # tests/django/test_guide.py runs it
RETAIL = ROOT.parent / "shared" / "data" / "online_retail" / "transactions.csv.gz"
MARKDOWN = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "sql" / "README.md"]
)


@dataclass
class World:
    """The state after the quickstart; the other pages start from copies of it."""

    server: str
    database: str
    folder: Path
    failures: list[str]


def _execute(server: str, statement: str, *names: str) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(
            sql.SQL(statement).format(*map(sql.Identifier, names))  # type: ignore[arg-type]
        )


def _dsn(server: str, database: str) -> str:
    return psycopg.conninfo.make_conninfo(server, dbname=database)


@pytest.fixture(scope="module")
def world(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run the quickstart in an empty database and an empty folder."""
    import torch

    # Two threads that fight other processes for two cores are ten times slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    name = f"recsys_docs_{os.getpid()}"
    folder = tmp_path_factory.mktemp("quickstart")
    _execute(server, "drop database if exists {} with (force)", name)
    _execute(server, "create database {}", name)
    page = docs_world.Page(_dsn(server, name), folder)
    page.run(QUICKSTART)
    page.close()
    yield World(server, name, folder, page.failures)
    _execute(server, "drop database {} with (force)", name)
    torch.set_num_threads(threads)


@pytest.fixture
def page(world: World, tmp_path: Path) -> Iterator[docs_world.Page]:
    """A copy of the quickstart's database and folder."""
    if world.failures:
        pytest.fail("the quickstart fails, and this page starts where it ends")
    name = f"{world.database}_page"
    _execute(world.server, "drop database if exists {} with (force)", name)
    _execute(world.server, "create database {} template {}", name, world.database)
    folder = tmp_path / "page"
    shutil.copytree(world.folder, folder)
    page = docs_world.Page(_dsn(world.server, name), folder)
    yield page
    page.close()
    _execute(world.server, "drop database {} with (force)", name)


def test_every_block_of_the_quickstart_runs(world: World) -> None:
    assert not world.failures, "\n\n".join(world.failures)


@pytest.mark.parametrize(
    "path",
    [p for p in PAGES if p not in (QUICKSTART, ROLLOUT, DJANGO, FLASK)],
    ids=lambda path: path.name,
)
def test_every_block_of_a_page_runs(page: docs_world.Page, path: Path) -> None:
    page.run(path)

    assert not page.failures, "\n\n".join(page.failures)


def test_every_block_of_the_change_of_model_runs(server: str, tmp_path: Path) -> None:
    if not RETAIL.exists():
        pytest.skip(f"the data set is not here: {RETAIL.relative_to(ROOT.parent)}")
    for name in ("recsys.toml", "setup.sql"):
        shutil.copy(ROOT / "examples" / "online_retail" / name, tmp_path)
    (tmp_path / RETAIL.name).symlink_to(RETAIL)
    name = f"recsys_docs_{os.getpid()}_retail"
    _execute(server, "create database {}", name)
    page = docs_world.Page(_dsn(server, name), tmp_path)
    try:
        page.run(ROLLOUT)
    finally:
        page.close()
        _execute(server, "drop database {} with (force)", name)

    assert not page.failures, "\n\n".join(page.failures)


def test_every_block_of_the_guide_to_flask_runs(server: str, tmp_path: Path) -> None:
    name = f"recsys_docs_{os.getpid()}_flask"
    _execute(server, "create database {}", name)
    page = docs_world.Page(_dsn(server, name), tmp_path)
    try:
        page.run(FLASK)
    finally:
        page.close()
        _execute(server, "drop database {} with (force)", name)

    assert not page.failures, "\n\n".join(page.failures)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("recsys versions shop --format csv", "model,number,status"),
        ("recsys recommend shop 7 -k 2 --format csv", "rank,item_id,score\n1,2,3"),
        ("recsys promote shop 1", "shop: version 1 -> two"),
        ("recsys promote shop 99", "shop: version 1 -> 99"),
    ],
)
def test_output_that_is_no_longer_true_is_noticed(
    page: docs_world.Page, command: str, shown: str
) -> None:
    path = ROOT / "docs" / "quickstart.md"
    block = docs_world.Block(path, 1, "console", f"$ {command}\n{shown}")

    with page.inside(), pytest.raises(AssertionError):
        page.run_block(block, None)


def test_blocks_left_out_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    found = [block for path in PAGES for block in docs_world.blocks(path)]
    skipped = [block for block in found if block.skipped is not None]

    with capsys.disabled():
        print(f"\n{len(found)} blocks in the documentation, not run:")
        for block in skipped:
            print(f"  {block.place}: {block.skipped}")

    assert all(block.skipped for block in skipped)
    languages = {block.language for block in found if block.skipped is None}
    assert languages <= set(docs_world.LANGUAGES)
    stray = [b.place for b in found if b.language == "text" and not b.follows]
    assert stray == [b.place for b in skipped if b.language == "text" and not b.follows]


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


@pytest.mark.parametrize(
    ("name", "command"), list(_commands(cli, "recsys")), ids=lambda value: str(value)
)
def test_every_command_and_option_is_described(
    name: str, command: click.Command
) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    sections = dict(
        section.split("\n", 1) for section in re.split(r"^## ", text, flags=re.M)[1:]
    )

    assert f"`{name}`" in sections, f"docs/cli.md has no section `{name}`"
    for parameter in command.params:
        shown = parameter.opts[0] if isinstance(parameter, click.Option) else (
            (parameter.name or "").upper()
        )  # fmt: skip
        assert f"`{shown}" in sections[f"`{name}`"], f"{name}: {shown}"
    assert "Example:" in (command.help or "")


@pytest.mark.parametrize(
    ("cls", "prefix"),
    [
        (config.ModelConfig, ""),
        (config.Source, ""),
        (config.Feature, ""),
        (config.Interactions, ""),
        (config.TrainConfig, "train"),
        (config.IndexConfig, "index"),
        (config.ContentConfig, "content"),
        (config.UpdateConfig, "update"),
        (config.NegativesConfig, "negatives"),
        (config.QueryConfig, "query"),
    ],
)
def test_every_key_of_the_configuration_is_described(cls: type, prefix: str) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()

    for key in dataclasses.fields(cls):
        if key.name == "kinds":  # what a training found, no key
            continue
        if key.name != "name":  # the key of a table, not a key in it
            assert f"`{key.name}`" in text, f"{cls.__name__}.{key.name}"
        plain = key.default not in (dataclasses.MISSING, None, "", 0.0, -1.0, ())
        if prefix and plain:
            section = text.split(f"## `[model.NAME.{prefix}]`")[1].split("\n## ")[0]
            row = re.search(rf"^\| `{key.name}` \| ([^|]*) \|", section, re.M)
            assert row, f"no row for {key.name}"
            default = str(key.default)
            default = default.lower() if default in ("True", "False") else default
            assert f"`{default}`" == row[1].strip(), key.name


def test_every_public_method_and_parameter_is_described() -> None:
    text = (ROOT / "docs" / "python.md").read_text()

    for name, method in inspect.getmembers(Recommender, inspect.isfunction):
        if not name.startswith("_"):
            assert f"### `{name}" in text
            for parameter in inspect.signature(method).parameters:
                assert parameter == "self" or f"`{parameter}`" in text


def test_every_public_object_of_the_schema_is_described_and_has_a_comment(
    db: psycopg.Connection,
) -> None:
    text = (ROOT / "docs" / "sql-reference.md").read_text()
    functions = db.execute(
        "select p.proname, p.proargnames, obj_description(p.oid, 'pg_proc')"
        " from pg_proc as p where p.pronamespace = 'recsys'::regnamespace"
        r" and p.proname not like '\_%' order by 1"
    ).fetchall()
    views = db.execute(
        "select c.relname, array_agg(a.attname), obj_description(c.oid, 'pg_class')"
        " from pg_class as c join pg_attribute as a on a.attrelid = c.oid"
        " where c.relnamespace = 'recsys'::regnamespace and c.relkind = 'v'"
        " and a.attnum > 0 group by c.oid, c.relname order by 1"
    ).fetchall()

    assert functions
    assert views
    for name, parts, comment in [*functions, *views]:
        assert comment, f"{name} has no comment"
        section = re.search(
            rf"^### `recsys\.{name}`?\b.*?(?=^##|\Z)", text, re.M | re.S
        )
        assert section, f"docs/sql-reference.md has no section on {name}"
        for part in parts or ():
            assert f"`{part}`" in section[0], f"{name}: {part}"


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)

    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name} links to {target}"
        if anchor:
            assert anchor in _anchors(file), f"{path.name} links to {target}"


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in headings
    }
