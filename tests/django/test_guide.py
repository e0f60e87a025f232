"""docs/django.md is true: the guide and every example on the page run, in order."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import docs_world
import psycopg
import pytest
from docs_world import ROOT

GUIDE = ROOT / "docs" / "django.md"

WORKER = """
import contextlib, io, json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
sys.path.insert(0, "")
import django
django.setup()
names = {}
for line in sys.stdin:
    out, failed = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(out):
            exec(json.loads(line), names)
    except BaseException as exc:
        failed = f"{type(exc).__name__}: {exc}"
    print(json.dumps([out.getvalue(), failed]), flush=True)
"""


@dataclass
class Guide(docs_world.Page):
    """The page, with its Python in a process of the project's own."""

    worker: subprocess.Popen[str] | None = None

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The database is named in the project's settings; the server is PG*."""
        where = psycopg.conninfo.conninfo_to_dict(self.dsn)
        names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user"}
        given = {k: str(where[v]) for k, v in names.items() if where.get(v)}
        if where.get("password"):
            given["PGPASSWORD"] = str(where["password"])
        one_thread = {"OMP_NUM_THREADS": "1"}
        with super().inside(), mock.patch.dict(os.environ, {**given, **one_thread}):
            del os.environ["RECSYS_DSN"]
            yield

    def run_block(
        self, block: docs_world.Block, wanted: docs_world.Block | None
    ) -> None:
        own = f'"NAME": "{psycopg.conninfo.conninfo_to_dict(self.dsn)["dbname"]}"'
        text = block.text.replace('"NAME": "store"', own)
        super().run_block(replace(block, text=text), wanted)

    def _python(self, block: docs_world.Block) -> str:
        if self.worker is None:
            self.worker = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", WORKER],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self.worker.stdin is not None
        assert self.worker.stdout is not None
        self.worker.stdin.write(json.dumps(block.text) + "\n")
        self.worker.stdin.flush()
        out, failed = json.loads(self.worker.stdout.readline())
        if failed:
            raise AssertionError(failed)
        return out

    def close(self) -> None:
        if self.worker is not None:
            self.worker.communicate()


@pytest.mark.slow
def test_every_block_of_the_guide_runs(empty_dsn: str, tmp_path: Path) -> None:
    folder = tmp_path / "guide"
    folder.mkdir()
    page = Guide(empty_dsn, folder)
    try:
        page.run(GUIDE)
    finally:
        page.close()

    assert not page.failures, "\n\n".join(page.failures)


def test_the_guide_shows_items_that_its_store_has() -> None:
    shown = [
        int(line.split()[1])
        for block in docs_world.blocks(GUIDE)
        for line in block.text.splitlines()
        if re.fullmatch(r" +\d+ +\d+ +\d\.\d{4}", line)
    ]

    assert shown
    assert max(shown) <= 200  # what its SQL makes
