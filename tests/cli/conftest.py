"""The command line in this process: what it prints where, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import world

from recsys import _db, rollout
from recsys.cli import app


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]

# The tables of the shop. [model.shop.items] is last, for more about the items.
SHOP = """\
[model.shop]
[model.shop.interactions]
sql = "select customer_id as user_id, product_id as item_id, created_at as occurred_at\
 from event"
[model.shop.items]
sql = "select id as item_id, title, brand, price, created_at from product"
"""


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Run ``recsys`` in an empty folder; an exception that escapes is a bug."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("RECSYS_", "PG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")  # train would replace the process

    def call(*args: object) -> Result:
        monkeypatch.setattr("sys.argv", ["recsys", *map(str, args)])
        code = 0
        try:
            app.run()
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Result(code, out, err)

    return call


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """The recsys.toml of the folder that commands run in."""
    path = tmp_path / "recsys.toml"
    path.write_text(SHOP)
    return path


@pytest.fixture(scope="module")
def shop_dsn(server: str, template: str) -> Iterator[str]:
    """A shop with versions 1 (serving) and 2, for commands that only read."""
    with world.database(server, template) as dsn:
        world.fill_shop(dsn)
        metrics = {"validation": {"model": {"recall@20": 0.5, "ndcg@20": 0.3}}}
        for seed in (1, 2):
            world.add_version(
                dsn, world.shop_config(features=True), seed=seed, metrics=metrics
            )
        with _db.connect(dsn) as conn:
            rollout.promote(conn, "shop", 1, reason="test", force=True)
        yield dsn


@pytest.fixture
def own_dsn(server: str, shop_dsn: str) -> Iterator[str]:
    """A copy of the shop that the test may change."""
    with world.database(server, world.name_of(shop_dsn)) as dsn:
        yield dsn
