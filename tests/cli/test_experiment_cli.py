"""The experiment commands: an experiment's life, its errors, its page."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from recsys import _db

ARMS = ("--arm", "control=1:50", "--arm", "new=2:50")


def test_an_experiment_from_the_hypothesis_to_the_decision(
    run: Run, own_dsn: str, tmp_path: Path
) -> None:
    def ok(*args: str) -> Any:
        result = run("--dsn", own_dsn, "experiment", *args)
        assert result.code == 0, result
        return result

    ok("create", "bigger", "shop", *ARMS, "--metric", "conversion",
       "--metric", "saves=count( cart )/items", "--hypothesis", "more")  # fmt: skip
    assert "draft" in ok("show", "bigger").err
    before = json.loads(ok("assign", "bigger", "1", "2", "--format", "json").out)
    refused = run("--dsn", own_dsn, "experiment", "start", "bigger")
    assert "was not compared" in refused.err
    ok("start", "bigger", "--force", "--reason", "for a test")
    assert "Nobody was exposed" in ok("show", "bigger").err
    with _db.connect(own_dsn) as conn:
        conn.execute(
            "insert into recsys.exposure select 'bigger', n::text,"
            " case when n % 2 = 0 then 'new' else 'control' end"
            " from generate_series(1, 600) as n"
        )
        conn.execute(
            "insert into recsys.outcome (model, user_id, item_id, kind)"
            " select 'shop', n::text, '1', 'purchase' from generate_series(1, 600) as n"
            " where n % 2 = 0 and n % 8 > 0 or n % 10 = 1"
        )
    shown = ok("show", "bigger", "--plot", "page.html")
    after = json.loads(ok("assign", "bigger", "1", "2", "--format", "json").out)
    ok("stop", "bigger", "--reason", "done")
    ok("stop", "bigger")  # keeps the results again
    rows = list(csv.DictReader(io.StringIO(ok("list", "--format", "csv").out)))

    assert "new is higher than control in conversion" in shown.err
    assert "denominator is zero" in shown.out
    assert "<svg" in (tmp_path / "page.html").read_text()
    assert before == after
    assert (rows[0]["state"], rows[0]["reason"]) == ("stopped", "done")
    results = json.loads(ok("show", "bigger", "--format", "json").out)
    assert [r["users"] for r in results] == [300] * 4
    assert "NaN" not in json.dumps(results)


def test_a_mismatch_is_the_first_thing_said(run: Run, own_dsn: str) -> None:
    run("--dsn", own_dsn, "experiment", "create", "bigger", "shop", *ARMS)
    run("--dsn", own_dsn, "experiment", "start", "bigger", "--force",
        "--reason", "for a test")  # fmt: skip
    with _db.connect(own_dsn) as conn:
        conn.execute(
            "insert into recsys.exposure select 'bigger', n::text,"
            " case when n % 3 = 0 then 'new' else 'control' end"
            " from generate_series(1, 600) as n"
        )

    result = run("--dsn", own_dsn, "experiment", "show", "bigger")

    assert result.err.startswith("WARNING: Sample ratio mismatch")
    assert "No verdict" in result.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("show", "nosuch"), "unknown experiment"),
        (("start", "nosuch"), "unknown experiment"),
        (("stop", "nosuch"), "unknown experiment"),
        (("assign", "nosuch", "1"), "unknown experiment"),
        (("list", "nosuch"), "no model named"),
        (("create", "x", "nosuch", *ARMS), "no model named"),
        (("create", "x", "shop", *ARMS[:2]), "two arms"),
        (("create", "x", "shop", *ARMS, "--metric", "zzz"), "unknown metric"),
        (("create", "x", "shop", *ARMS, "--metric", "a=any(b)"), "kinds: cart"),
        (("create", "x", "shop", *ARMS, "--traffic", "101"), "traffic"),
        (("create", "x", "shop", *ARMS, "--traffic", "nan"), "traffic"),
        (("create", "x", "shop", *ARMS, "--control", "z"), "no arm"),
        (("create", "x", "shop", "--arm", "a=1", "--arm", "b=2:50"), "not an arm"),
        (("create", "x", "shop", "--arm", "a=1:50", "--arm", "b=7:50"), "version 7"),
        (("power", "--baseline", "2", "--lift", "0.1"), "conversion rate"),
        (("power", "--baseline", "0.1", "--lift", "0"), "zero"),
        (("power", "--baseline", "0.1", "--lift", "nan"), "finite"),
        (("power", "--baseline", "0.1", "--lift", "1e-200"), "more than 1e+15"),
        (
            ("power", "--baseline", "0.1", "--lift", "1", "--daily-users", "nan"),
            "users",
        ),
        (("power", "--baseline", "inf", "--lift", "1", "--deviation", "1"), "baseline"),
        (("power", "--baseline", "0.1", "--lift", "1", "--share", "1"), "share"),
        (("power", "--baseline", "-1", "--lift", "1", "--deviation", "1"), "baseline"),
    ],
)
def test_errors_are_two_lines(
    run: Run, shop_dsn: str, args: tuple[str, ...], words: str
) -> None:
    result = run("--dsn", shop_dsn, "experiment", *args)

    assert result.code == 1
    assert result.out == ""
    assert words in result.err.lower()
    assert "Hint: " in result.err


def test_power_needs_no_database(run: Run) -> None:
    result = run("experiment", "power", "--baseline", "0.04", "--lift", "0.05",
                 "--daily-users", "2000", "--format", "json")  # fmt: skip

    assert json.loads(result.out)[0]["days"] == 151


def test_a_page_that_cannot_be_written_says_so(run: Run, own_dsn: str) -> None:
    run("--dsn", own_dsn, "experiment", "create", "bigger", "shop", *ARMS)

    path = "nowhere/page.html"
    result = run("--dsn", own_dsn, "experiment", "show", "bigger", "--plot", path)

    assert result.code == 1
    assert "cannot write nowhere/page.html" in result.err
