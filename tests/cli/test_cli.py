"""The command line: exit codes, streams, stable names, and no traceback ever."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import world
from conftest import Run

from recsys import _db
from recsys.cli.app import cli


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[Any]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def failed(result: Any, *words: str, hint: bool = True) -> None:
    """The command ended with status 1, said why on stderr and nothing on stdout."""
    assert result.code == 1, result
    assert result.out == ""
    lines = result.err.strip().splitlines()
    assert any(line.startswith("Error: ") for line in lines), result.err
    assert any(line.startswith("Hint: ") for line in lines) or not hint, result.err
    for word in words:
        assert word in result.err


# help ------------------------------------------------------------------------------


def test_every_command_of_the_design_is_there() -> None:
    names = {path[0] for path in commands()}

    wanted = (
        "init import upgrade downgrade train backfill versions promote rollback"
        " recommend similar evaluate status doctor demo drop artifacts"
        " watch unwatch worker retry retire keep compare guardrail experiment"
        " tune report"
    )
    assert set(wanted.split(" ")) <= names


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example(run: Run, path: Any) -> None:
    result = run(*path, "--help")

    assert result.code == 0
    assert "Example:" in result.out
    assert f"recsys {' '.join(path)}" in result.out


def test_the_program_starts_in_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recsys", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "recsys promote shop 1" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "args",
    [
        ["nope"],
        ["recommend"],
        ["recommend", "shop", "7", "-k", "five"],
        ["recommend", "shop", "7", "--format", "xml"],
        ["similar", "shop"],
        ["promote", "shop"],
        ["backfill", "shop", "one"],
        ["backfill", "shop", "-1"],
        ["train", "shop", "--until", "yesterday"],
        ["evaluate", "shop", "--after", "soon"],
        ["downgrade"],
        ["--nope"],
    ],
)
def test_bad_usage_ends_with_2(run: Run, args: list[str]) -> None:
    result = run(*args)

    assert result.code == 2
    assert "Usage:" in result.err
    assert result.out == ""


# rows ------------------------------------------------------------------------------


def test_recommendations_as_json_have_stable_names(run: Run, shop_dsn: str) -> None:
    result = run("--dsn", shop_dsn, "recommend", "shop", 7, "-k", 3, "--format", "json")

    rows = json.loads(result.out)
    assert [list(row) for row in rows] == [["rank", "item_id", "score"]] * 3
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert type(rows[0]["item_id"]) is int
    assert (result.code, result.err) == (0, "")


def test_the_three_formats_say_the_same(run: Run, shop_dsn: str) -> None:
    base = ("--dsn", shop_dsn, "similar", "shop", 42, "-k", 3, "--format")

    as_json = json.loads(run(*base, "json").out)
    as_csv = list(csv.DictReader(io.StringIO(run(*base, "csv").out)))
    as_table = run(*base, "table").out

    assert [int(r["item_id"]) for r in as_csv] == [r["item_id"] for r in as_json]
    assert all(str(r["item_id"]) in as_table for r in as_json)


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (
            ["versions", "shop"],
            ["model", "number", "state", "dim", "ann_recall", "recall", "ndcg"],
        ),
        (["status"], ["model", "number", "state", "phase", "progress_percent"]),
        (["doctor"], ["check", "result", "detail", "hint"]),
    ],
)
def test_rows_have_stable_names(
    run: Run, shop_dsn: str, args: list[str], names: list[str]
) -> None:
    result = run("--dsn", shop_dsn, *args, "--format", "json")

    rows = json.loads(result.out)
    assert rows
    assert all(set(names) <= set(row) for row in rows)


def test_versions_tells_states_and_metrics(run: Run, shop_dsn: str) -> None:
    rows = json.loads(run("--dsn", shop_dsn, "versions", "--format", "json").out)

    assert [(r["number"], r["state"]) for r in rows] == [(2, "ready"), (1, "serving")]
    assert (rows[0]["recall"], rows[0]["ndcg"], rows[0]["dim"]) == (0.5, 0.3, 9)


def test_options_of_recommend_reach_the_model(run: Run, shop_dsn: str) -> None:
    def rows(*args: object) -> list[Any]:
        base = ("--dsn", shop_dsn, "recommend", "shop", "--format", "json", "-k", 5)
        return json.loads(run(*base, *args).out)

    def ids(*args: object) -> list[int]:
        return [row["item_id"] for row in rows(*args)]

    assert ids(7, "--among", "select id from product where id < 3") in ([1, 2], [2, 1])
    assert ids("--history", "3, 14") == ids("--history", "3,14")
    assert not set(ids("--history", "3,14")) & {3, 14}
    assert rows(7, "--context", "device=desk") != rows(7, "--context", "device=phone")
    assert len(ids()) == len(ids(999_999)) == 5


# the life of a model ---------------------------------------------------------------


def test_promote_rollback_and_drop_tell_what_they_did(run: Run, own_dsn: str) -> None:
    base = ("--dsn", own_dsn)

    failed(run(*base, "promote", "shop", 2), "was not compared")
    forced = ("--force", "--reason", "better")
    failed(run(*base, "promote", "shop", 2, "--force"), "needs a reason")
    share = run(*base, "promote", "shop", 2, "--percent", "33.3", *forced)
    assert "version 2 answers 33.3 %, version 1 the rest" in share.err
    assert "1 -> 2" in run(*base, "promote", "shop", 2).err
    assert "version 1 serves everybody again" in run(*base, "rollback", "shop").err
    ramp = ("--ramp", "1,5,100", "--every", "30m")
    assert "5, 100 %" in run(*base, "promote", "shop", 2, *ramp, *forced).err
    assert "everybody again" in run(*base, "rollback", "shop").err
    assert "dropped" in run(*base, "drop", "shop", 2).err
    failed(run(*base, "rollback", "shop"), "version 1")
    failed(run(*base, "drop", "shop", 1), "no earlier version")
    assert run(*base, "promote", "shop", "none").code == 0
    failed(run(*base, "recommend", "shop", 7), "serving")


class Terminal(io.StringIO):
    """A person's answers."""

    def isatty(self) -> bool:
        return True


class Leaving(Terminal):
    """A person who presses Ctrl-C instead."""

    def readline(self, size: int | None = -1, /) -> str:
        raise KeyboardInterrupt


def test_at_a_terminal_a_version_is_dropped_after_a_yes(
    run: Run, own_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = ("--dsn", own_dsn, "drop", "shop")

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    refused = run(*drop, 2)
    failed(run(*drop, 99, "--yes"), "no version 99")
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    done = run(*drop, 2)

    assert "Version 2 of shop is ready. Drop its vectors" in refused.err
    assert refused.code == 1
    assert refused.err.rstrip().endswith("Nothing was dropped.")
    assert "version 2 dropped" in done.err


def test_ctrl_c_at_the_question_drops_nothing(
    run: Run, own_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Leaving())

    ended = run("--dsn", own_dsn, "drop", "shop", 2)

    assert ended.code == 130
    assert ended.err.rstrip().endswith("Interrupted.")


def test_without_a_standard_input_a_version_is_dropped_without_a_question(
    run: Run, own_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)

    done = run("--dsn", own_dsn, "drop", "shop", 2)

    assert done.code == 0
    assert "version 2 dropped" in done.err


def test_yes_drops_without_a_question(
    run: Run, own_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(""))

    done = run("--dsn", own_dsn, "drop", "shop", 2, "--yes")

    assert done.code == 0
    assert "for good" not in done.err


def test_a_running_experiment_is_named_by_what_does_not_concern_it(
    run: Run, own_dsn: str
) -> None:
    base = ("--dsn", own_dsn)
    forced = ("--force", "--reason", "test")
    arms = ("--arm", "a=1:50", "--arm", "b=2:50")
    assert run(*base, "experiment", "create", "exp", "shop", *arms).code == 0
    assert run(*base, "experiment", "start", "exp", *forced).code == 0

    for command in (
        ("promote", "shop", 2, "--percent", "10", *forced),
        ("promote", "shop", 2),
        ("rollback", "shop"),
    ):
        said = run(*base, *command).err
        assert "experiment exp goes on serving its users by 1, 2" in said
        assert "recsys experiment stop exp" in said
    assert "experiment exp serves 100 %" in run(*base, "status").err


def test_status_says_who_answers_how_much_and_where_a_ramp_stands(
    run: Run, own_dsn: str
) -> None:
    base = ("--dsn", own_dsn)
    assert "percent" not in run(*base, "versions", "shop").out
    ramp = ("--ramp", "5,50,100", "--every", "1h", "--force", "--reason", "test")
    assert run(*base, "promote", "shop", 2, *ramp).code == 0

    status = run(*base, "status")
    assert "version 2 answers 5 %, step 1 of 3, the next at" in status.err
    for shown in (status.out, run(*base, "versions", "shop").out):
        assert "percent" in shown
        assert "95.0" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["2", "--percent", ""], "percent must be"),
        (["2", "--percent", "0"], "percent must be"),
        (["2", "--percent", "101"], "percent must be"),
        (["2", "--percent", "33.333"], "percent must be"),
        (["2", "--percent", "ten"], "percent must be"),
        (["2", "--ramp", "1,100"], "needs a version and --every"),
        (["2", "--every", "1h"], "belongs to --ramp"),
        (["2", "--ramp", "5,1", "--every", "1h"], "must ascend"),
        (["1", "--ramp", "1,100", "--every", "1h"], "nothing to ramp"),
        (["none", "--ramp", "1,100", "--every", "1h"], "needs a version"),
        (["none", "--percent", "10"], "stops serving"),
        (["two"], "must be a version number"),
    ],
)
def test_bad_promotions_say_what_is_wrong_and_change_nothing(
    run: Run, own_dsn: str, options: list[str], message: str
) -> None:
    failed(run("--dsn", own_dsn, "promote", "shop", *options), message)

    with _db.connect(own_dsn) as conn:
        rows = conn.execute("select number, percent from recsys.rollout").fetchall()
    assert rows == [(1, 100)]


def test_artifacts_are_carried_by_folder(run: Run, shop_dsn: str, dsn: str) -> None:
    assert run("--dsn", shop_dsn, "artifacts", "export", "shop", "out").code == 0
    result = run("--dsn", dsn, "artifacts", "import", "out")

    assert result.code == 0
    assert "Stored 7" in result.err  # the report of both is the same


def test_evaluate_prints_metrics_through_the_served_path(
    run: Run, shop_dsn: str, tmp_path: Path
) -> None:
    holdout = tmp_path / "test.csv"
    holdout.write_text("user_id,item_id\n7,1\n7,2\n8,3\n")

    result = run(
        "--dsn", shop_dsn, "evaluate", "shop", "--holdout", holdout, "-k", 20,
        "--exact", "--format", "json",
    )  # fmt: skip

    rows = json.loads(result.out)
    names = ["model", "number", "slice", "method", "metric", "value"]
    assert [list(row) for row in rows] == [names] * len(rows)
    assert {(r["method"], r["metric"]) for r in rows} >= {
        (method, metric)
        for method in ("model", "exact", "most_popular", "popular_30d")
        for metric in ("recall@20", "ndcg@20", "hr@10")
    }
    assert "shop 1: 2 users, 3 hits" in result.err
    assert "Warning: only 2 users were measured" in result.err
    assert "each metric may lie 0.71 off" in result.err


def test_a_table_of_segments_has_a_row_for_each_and_a_column_for_each_metric(
    run: Run, shop_dsn: str
) -> None:
    command = ("evaluate", "shop", "1", "--after", "2026-02-15", "--segments")

    shown = run("--dsn", shop_dsn, *command)
    plain = run("--dsn", shop_dsn, *command, "--format", "json")

    heads = [line.split() for line in shown.out.splitlines() if " method " in line]
    assert heads == [
        ["slice", "method", "recall@20", "ndcg@20", "hr@10", "users"],
        ["slice", "method", "coverage@20", "gini@20", "popularity_lift@20"],
    ]
    # Cells are apart by three blanks, and a part may have one in its name.
    cells = [re.split(r"\s{2,}", line.strip()) for line in shown.out.splitlines()]
    rows = {tuple(row[:2]): row[2:] for row in cells if len(row) in (5, 6)}
    found = {(row["slice"], row["method"]) for row in json.loads(plain.out)}
    assert {key for key in rows if key[0] != "slice"} == found
    assert ("holdout: regular users", "most_popular") in found
    values = {
        (row["slice"], row["method"], row["metric"]): row["value"]
        for row in json.loads(plain.out)
    }
    for (part, method), shown_values in rows.items():
        if part not in ("slice", "holdout: lists"):
            assert shown_values[0] == f"{values[part, method, 'recall@20']:.4f}"
            assert shown_values[3].isdigit()
    # As before: one metric a row, and nothing that the stored ones have not.
    assert ("holdout", "model", "users") not in values


def test_the_whole_way_from_a_csv_to_recommendations(
    run: Run, empty_dsn: str, tmp_path: Path
) -> None:
    """The one test here that trains."""
    rows = [f"u{u:02d},i{i:03d}" for u in range(30) for i in range(u % 5, 60, 5)]
    (tmp_path / "train.csv").write_text("user_id,item_id\n" + "\n".join(rows) + "\n")
    (tmp_path / "test.csv").write_text("user_id,item_id\nu01,i002\nu02,i001\n")
    base = ("--dsn", empty_dsn)

    assert run(*base, "upgrade").code == 0
    assert run(*base, "import", "train.csv", "tiny").code == 0
    trained = run(*base, "train", "tiny", "--budget", 2, "--seed", 1, "--apply",
                  "--format", "json")  # fmt: skip
    assert trained.code == 0, trained.err
    assert {row["method"] for row in json.loads(trained.out)} >= {"model"}
    assert "recsys promote tiny 1" in trained.err
    assert run(*base, "promote", "tiny", 1).code == 0
    page = run(*base, "recommend", "tiny", "u01", "-k", 5, "--format", "json")
    assert len(json.loads(page.out)) == 5
    result = run(*base, "evaluate", "tiny", "--holdout", "test.csv", "-k", 20)
    assert result.code == 0
    assert run(*base, "doctor").code == 0
    failed(run(*base, "downgrade", "base"), "tiny")
    assert run(*base, "downgrade", "base", "--stop-serving").code == 0


def test_upgrade_prints_sql_without_a_server(run: Run) -> None:
    result = run("--dsn", "host=/nowhere", "upgrade", "--sql")

    assert result.code == 0
    assert "create table recsys.model" in result.out


def test_init_writes_once(run: Run, tmp_path: Path) -> None:
    assert run("init", "music").code == 0
    assert (tmp_path / "recsys.toml").exists()
    failed(run("init", "music"), "exists")
    failed(run("--config", "x.toml", "init", "My Shop"), "not usable")


# bad input -------------------------------------------------------------------------

NEEDS_SERVER = [
    ["versions"],
    ["status"],
    ["upgrade"],
    ["downgrade", "base"],
    ["backfill", "shop"],
    ["promote", "shop", "1"],
    ["rollback", "shop"],
    ["drop", "shop", "1"],
    ["recommend", "shop", "7"],
    ["similar", "shop", "42"],
    ["evaluate", "shop", "--after", "2026-01-01"],
    ["artifacts", "export", "shop", "out"],
]


@pytest.mark.parametrize("args", NEEDS_SERVER, ids=" ".join)
def test_no_server_is_told(run: Run, args: list[str]) -> None:
    failed(run("--dsn", "host=/nowhere", *args), "cannot connect", "recsys doctor")


@pytest.mark.parametrize("args", NEEDS_SERVER[:2] + NEEDS_SERVER[4:], ids=" ".join)
def test_a_database_without_the_schema_is_told(
    run: Run, empty_dsn: str, args: list[str]
) -> None:
    failed(run("--dsn", empty_dsn, *args), "recsys upgrade")


@pytest.mark.parametrize("args", NEEDS_SERVER[4:], ids=" ".join)
def test_an_unknown_model_is_told(run: Run, dsn: str, args: list[str]) -> None:
    failed(run("--dsn", dsn, *args), "'shop'")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["recommend", "shop", "7", "-k", "0"], ["k must be"]),
        (["recommend", "shop", "7", "-k", "-1"], ["k must be"]),
        (["recommend", "shop", "7", "-k", 10**9], ["k must be"]),
        (["recommend", "shop", "abc"], ["USER_ID must be bigint"]),
        (["recommend", "shop", 2**70], ["USER_ID must be bigint"]),
        (["recommend", "shop", "--history", "1,x"], ["--history must be bigint"]),
        (["recommend", "shop", "7", "--context", "x"], ["NAME=VALUE"]),
        (["recommend", "shop", "7", "--among", "nonsense"], ["among"]),
        (["recommend", "shop", "7", "--among", "select 1; drop table x"], ["among"]),
        (["similar", "shop", "9999"], ["item 9999"]),
        (["similar", "shop", "é🍏"], ["ITEM_ID must be bigint"]),
        (["promote", "shop", "99"], ["no version 99"]),
        (["promote", "shop", "x"], ["'none'"]),
        (["promote", "shop", 10**30], ["no version"]),
        (["promote", "shop", "²"], ["NUMBER"]),
        (["backfill", "shop", "99"], ["no version 99"]),
        (["drop", "shop", "99"], ["no version 99"]),
        (["versions", "nope"], ["'nope'"]),
        (["evaluate", "shop"], ["--holdout"]),
        (["evaluate", "shop", "--holdout", "no.csv"], ["no.csv"]),
        (["evaluate", "shop", "99", "--after", "2026-01-01"], ["no version 99"]),
        (["evaluate", "shop", "--after", "2099-01-01"], ["no hit from 2099-01-01"]),
        (["train", "shop"], ["recsys.toml", "recsys init"]),
        (["import", "no.csv", "shop"], ["no.csv"]),
        (["import", "no.csv"], ["MODEL", "--table"]),
        (["downgrade", "nope"], ["nope"]),
        (["upgrade", "--revision", "nope"], ["nope"]),
    ],
)
def test_bad_input_is_explained(
    run: Run, shop_dsn: str, args: list[Any], words: list[str]
) -> None:
    failed(run("--dsn", shop_dsn, *args), *words, hint=False)


def test_a_misspelt_key_is_told_by_every_command_that_reads_it(
    run: Run, dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "recsys.toml").write_text("[modle.shop]\n")

    for args in (["train", "shop"], ["upgrade"], ["downgrade", "base"]):
        failed(run("--dsn", dsn, *args), "modle", 'Did you mean "model"?')


def test_a_bad_connection_string_is_told(run: Run) -> None:
    failed(run("--dsn", "nonsense", "status"), "malformed")


def test_doctor_ends_with_1_when_a_check_fails(run: Run, empty_dsn: str) -> None:
    result = run("--dsn", empty_dsn, "doctor", "--format", "json")

    assert result.code == 1
    assert any(row["result"] == "fail" for row in json.loads(result.out))
    assert run("--dsn", "host=/nowhere", "doctor").code == 1


def test_a_role_without_privileges_is_told(run: Run, shop_dsn: str) -> None:
    analyst = world.as_role(shop_dsn, "recsys_analyst")

    failed(run("--dsn", analyst, "promote", "shop", 2), "permission denied")


def test_a_closed_pipe_is_no_error(shop_dsn: str) -> None:
    command = f'"{sys.executable}" -m recsys versions --format csv | true'

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        env={"RECSYS_DSN": shop_dsn, "PATH": "/usr/bin:/bin"},
        check=False,
    )

    assert "Traceback" not in done.stderr
