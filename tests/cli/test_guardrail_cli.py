"""recsys guardrail: set, list, remove, check."""

from __future__ import annotations

import json

import pytest
from conftest import Run

from recsys import _db


def rails(run: Run, dsn: str) -> dict[str, dict]:
    result = run("--dsn", dsn, "guardrail", "list", "shop", "--format", "json")
    return {row["metric"]: row for row in json.loads(result.out)}


def test_the_defaults_are_listed(run: Run, shop_dsn: str) -> None:
    assert [
        (m, r["kind"], r["bound"], r["source"]) for m, r in rails(run, shop_dsn).items()
    ] == [
        ("error_rate", "max", 0.02, "default"),
        ("degraded_rate", "max_rise", 0.05, "default"),
        ("short_page_rate", "max_rise", 0.05, "default"),
    ]


def test_a_bound_is_set_shown_and_removed(run: Run, own_dsn: str) -> None:
    result = run(
        "--dsn", own_dsn, "guardrail", "set", "shop", "ctr", "--max-drop", "10%",
        "--min-sample", "500", "--action", "rollback",
    )  # fmt: skip

    assert (result.code, result.out) == (0, "")
    assert "shop: ctr --max-drop 0.1, else rollback" in result.err
    assert rails(run, own_dsn)["ctr"] == {
        "metric": "ctr", "kind": "max_drop", "bound": 0.1, "min_sample": 500,
        "action": "rollback", "source": "set",
    }  # fmt: skip
    assert (
        "default again"
        in run("--dsn", own_dsn, "guardrail", "remove", "shop", "ctr").err
    )
    assert "ctr" not in rails(run, own_dsn)
    assert "no bound" in run("--dsn", own_dsn, "guardrail", "remove", "shop", "ctr").err


def test_a_default_can_be_switched_off(run: Run, own_dsn: str) -> None:
    run("--dsn", own_dsn, "guardrail", "set", "shop", "error_rate", "--off")

    assert rails(run, own_dsn)["error_rate"]["kind"] == "off"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shop", "ctr"], "exactly one bound"),
        (["shop", "ctr", "--max-drop", "10%", "--off"], "exactly one bound"),
        (["shop", "ctr", "--max", "1"], "It takes --max-drop, --off"),
        (["shop", "ctr", "--max-drop", "10"], "A share is written 10% or 0.1"),
        (["nope", "ctr", "--max-drop", "0.1"], "no model named 'nope'"),
        (["shop", "ctr", "--max-drop", "0.1", "--min-sample", "0"], "min_sample"),
    ],
)
def test_what_makes_no_sense_is_refused(
    run: Run, shop_dsn: str, arguments: list[str], said: str
) -> None:
    result = run("--dsn", shop_dsn, "guardrail", "set", *arguments)

    assert result.code == 1
    assert said in result.err


@pytest.mark.parametrize(
    "arguments",
    [["shop", "joy", "--max", "1"], ["shop", "ctr", "--max-drop", "ten"], ["shop"]],
)
def test_bad_usage_ends_with_two(run: Run, shop_dsn: str, arguments: list[str]) -> None:
    assert run("--dsn", shop_dsn, "guardrail", "set", *arguments).code == 2


def test_without_a_candidate_check_says_so(run: Run, shop_dsn: str) -> None:
    result = run("--dsn", shop_dsn, "guardrail", "check", "shop", "--format", "csv")

    assert result.code == 0
    assert result.out.splitlines() == [
        "metric,kind,bound,base,candidate,answers,verdict,reason"
    ]
    assert "no candidate is being rolled out" in result.err


def test_check_says_what_a_ramp_would_do(run: Run, own_dsn: str) -> None:
    with _db.connect(own_dsn) as conn:
        conn.execute(
            "insert into recsys.rollout (model, number, percent, candidate)"
            " values ('shop', 2, 10, true)"
        )
        conn.execute(
            "insert into recsys.impression (request_id, model, version, unit, k, error)"
            " select gen_random_uuid(), 'shop', 2, n::text, 5, 'SourceError: x'"
            " from generate_series(1, 200) as n"
        )

    result = run("--dsn", own_dsn, "guardrail", "check", "shop", "--format", "csv")

    assert "error_rate,max,0.02,,1.0,200,breach" in result.out
    assert "rollback: error_rate of version 2 is 100.00%" in result.err
