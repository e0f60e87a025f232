"""Guardrails: each fires when its metric is broken, and none on equal versions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import world
from world import Shop

from recsys import _db, guardrails
from recsys._db import Connection
from recsys._guardrail import Guardrail
from recsys.errors import ConfigError, UnknownModel
from recsys.experiment.moments import from_users
from recsys.experiment.stats import estimate

BEGIN = datetime.now(UTC) - timedelta(minutes=30)
HEALTHY = {
    "error": 0.004, "degraded": 0.01, "short": 0.02, "ms": 5.0, "ctr": 0.2,
    "buys": 0.05, "price": 20.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def town(server: str, shop_template: Shop) -> Iterator[str]:
    with world.database(server, world.name_of(shop_template.dsn)) as dsn:
        with _db.connect(dsn) as conn:
            conn.execute(
                "update recsys.model_version set state = 'serving' where number = 2"
            )
            conn.execute(
                "update recsys.rollout set percent = 90 where number = 1;"
                "insert into recsys.rollout (model, number, percent, candidate)"
                " values ('shop', 2, 10, true)"
            )
        yield dsn


@pytest.fixture
def conn(town: str) -> Iterator[Connection]:
    """A candidate at 10 percent; everything is rolled back."""
    with _db.connect(town) as conn:
        yield conn
        conn.rollback()


def serve(
    conn: Connection,
    version: int,
    *,
    units: int = 300,
    per_unit: int = 5,
    seed: int = 0,
    since: datetime = BEGIN,
    **changed: float,
) -> None:
    """Log what a version showed, as a request process and record() would."""
    world_of = {**HEALTHY, **changed}
    rng = np.random.default_rng(seed)
    answers = units * per_unit
    taste = np.repeat(rng.beta(2, 8, units) / 0.2, per_unit)  # users differ
    clicked = rng.random(answers) < np.clip(world_of["ctr"] * taste, 0, 1)
    bought = clicked & (rng.random(answers) < world_of["buys"] / world_of["ctr"])
    failed = rng.random(answers) < world_of["error"]
    short = rng.random(answers) < world_of["short"]
    rows = []
    for n in range(answers):
        rows.append(
            (
                f"v{version}s{seed}u{n // per_unit}",
                [] if failed[n] else ["1", "2"][: 1 if short[n] else 2],
                "SourceError: x" if failed[n] else None,
                "cached" if rng.random() < world_of["degraded"] else None,
                float(world_of["ms"] * rng.lognormal(0, 0.5)),
                "purchase" if bought[n] else "view" if clicked[n] else None,
                float(rng.gamma(2, world_of["price"] / 2)) if bought[n] else None,
            )
        )
    columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)]
    columns[1] = ["{" + ",".join(ids) + "}" for ids in columns[1]]
    conn.execute(
        "with given as (select gen_random_uuid() as id, * from unnest(%s::text[],"
        " %s::text[], %s::text[], %s::text[], %s::real[], %s::text[], %s::numeric[])"
        " as t (unit, ids, error, degraded, ms, kind, value)), shown as ("
        " insert into recsys.impression (request_id, model, version, unit, item_ids,"
        " k, error, degraded, took_ms, occurred_at) select id, 'shop', %s, unit,"
        " ids::text[], 2, error, degraded, ms, %s from given)"
        " insert into recsys.outcome (request_id, model, user_id, item_id, kind, value,"
        " occurred_at) select id, 'shop', unit, '1', kind, value, %s from given"
        " where kind is not null",
        (*columns, version, since + timedelta(seconds=1), since + timedelta(seconds=5)),
    )


WATCHED = (
    Guardrail("latency_p99_ms", "max_ratio", 1.5, 500),
    Guardrail("ctr", "max_drop", 0.10),
    Guardrail("conversion", "max_drop", 0.10),
    Guardrail("revenue", "max_drop", 0.10),
)


def watch(conn: Connection) -> None:
    for rail in WATCHED:
        guardrails.put(conn, "shop", rail)


def broken(conn: Connection) -> list[str]:
    return [b.metric for b in guardrails.check(conn, "shop", since=BEGIN)]


# A/A and planted harm --------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_equal_versions_break_nothing_at_any_look(conn: Connection, seed: int) -> None:
    """Eight looks at growing data, all seven guardrails on."""
    watch(conn)
    found = []
    for look in range(8):
        serve(conn, 1, units=150, seed=1000 * seed + look)
        serve(conn, 2, units=50, seed=1000 * seed + look + 500)
        found += broken(conn)

    assert found == []


def sample(x: np.ndarray, y: np.ndarray) -> guardrails._Sample:
    made = estimate(from_users(x, y))
    return guardrails._Sample(int(y.sum()), made, made.mean or 0.0)


@pytest.mark.parametrize(
    ("rail", "base_rate", "rate"),
    [
        (Guardrail("error_rate", "max", 0.02), 0.02, 0.02),
        (Guardrail("short_page_rate", "max_rise", 0.05), 0.02, 0.07),
        (Guardrail("ctr", "max_drop", 0.10), 0.20, 0.18),
    ],
    ids=lambda value: value.metric if isinstance(value, Guardrail) else "",
)
def test_a_candidate_exactly_at_its_bound_is_seldom_blamed(
    rail: Guardrail, base_rate: float, rate: float
) -> None:
    """400 ramps of 20 looks; at most 1 % may ever fire, were the numbers exact."""
    rng = np.random.default_rng(11)
    fired = 0
    for _ in range(400):
        y = rng.integers(1, 8, 2_000).astype(float)
        taste = rng.gamma(4, 0.25, (2, 2_000))
        base = rng.binomial(y.astype(int), np.clip(base_rate * taste[0], 0, 1))
        mine = rng.binomial(y.astype(int), np.clip(rate * taste[1], 0, 1))
        for look in range(1, 21):
            to = 100 * look
            reading = guardrails._read(
                rail, 2, sample(base[:to], y[:to]), sample(mine[:to], y[:to])
            )
            if reading.verdict == "breach":
                fired += 1
                break

    assert fired <= 0.01 * 400 + 3


@pytest.mark.parametrize(
    ("harm", "metric"),
    [
        ({"error": 0.10}, "error_rate"),
        ({"error": 1.0}, "error_rate"),
        ({"degraded": 0.30}, "degraded_rate"),
        ({"short": 0.30}, "short_page_rate"),
        ({"ms": 15.0}, "latency_p99_ms"),
        ({"ctr": 0.08, "buys": 0.02}, "ctr"),
        ({"buys": 0.002}, "conversion"),
        ({"price": 2.0}, "revenue"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_each_guardrail_fires_when_its_metric_is_broken(
    conn: Connection, harm: dict[str, float], metric: str
) -> None:
    watch(conn)
    serve(conn, 1, units=1500, seed=1)
    serve(conn, 2, units=1500, seed=2, **harm)

    breaches = {b.metric: b for b in guardrails.check(conn, "shop", since=BEGIN)}

    assert metric in breaches
    breach = breaches[metric]
    assert metric in breach.reason
    assert "version 2" in breach.reason
    assert breach.base is not None
    assert breach.reason.count("\n") == 0
    if metric in ("ctr", "conversion", "revenue"):
        assert breach.candidate < breach.base
    else:
        assert breach.candidate > breach.base


@pytest.mark.parametrize(
    "better",
    [{"ctr": 0.4}, {"price": 60.0}, {"ms": 1.0}, {"error": 0.0, "short": 0.0}],
    ids=str,
)
def test_a_better_candidate_breaks_nothing(
    conn: Connection, better: dict[str, float]
) -> None:
    watch(conn)
    serve(conn, 1, units=1500, seed=1)
    serve(conn, 2, units=1500, seed=2, **better)

    assert broken(conn) == []


def test_the_defaults_hold_without_configuration(conn: Connection) -> None:
    serve(conn, 1)
    serve(conn, 2, error=0.2, short=0.4)

    found = guardrails.check(conn, "shop", since=BEGIN)

    assert [(b.metric, b.action) for b in found] == [
        ("error_rate", "rollback"),
        ("short_page_rate", "rollback"),
    ]


def test_errors_of_both_versions_stop_but_do_not_roll_back(conn: Connection) -> None:
    serve(conn, 1, error=0.3)
    serve(conn, 2, error=0.3)

    breach = guardrails.check(conn, "shop", since=BEGIN)[0]

    assert (breach.metric, breach.action) == ("error_rate", "stop")
    assert breach.reason.endswith("as does the base")


def test_too_few_answers_conclude_nothing(conn: Connection) -> None:
    serve(conn, 1)
    serve(conn, 2, units=19, error=1.0)
    assert broken(conn) == []

    serve(conn, 2, units=10, error=1.0, seed=3)
    assert broken(conn) == ["error_rate"]


def test_one_unlucky_user_is_no_verdict(conn: Connection) -> None:
    serve(conn, 1)
    serve(conn, 2, units=200)
    serve(conn, 2, units=1, per_unit=300, error=1.0, seed=5)
    # One session in a loop: a quarter of the answers, and a single unit.

    assert broken(conn) == []


def test_only_what_happened_since_counts(conn: Connection) -> None:
    serve(conn, 1)
    serve(conn, 2, error=1.0, since=BEGIN - timedelta(minutes=10))

    assert broken(conn) == []


def test_answers_for_nobody_and_of_experiments_do_not_count(conn: Connection) -> None:
    serve(conn, 1)
    serve(conn, 2, error=1.0)
    conn.execute(
        "update recsys.impression set unit = null"
        " where version = 2 and unit like '%0';"
        "update recsys.impression set experiment = 'blue'"
        " where version = 2 and unit is not null"
    )

    assert broken(conn) == []


def test_without_impressions_nothing_is_concluded(conn: Connection) -> None:
    found = guardrails.readings(conn, "shop", since=BEGIN)

    assert {reading.verdict for reading in found} == {"too few"}
    assert guardrails.check(conn, "shop", since=BEGIN) == []


def test_without_a_candidate_there_is_nothing_to_check(conn: Connection) -> None:
    conn.execute("delete from recsys.rollout where candidate")
    serve(conn, 1, error=1.0)

    assert guardrails.readings(conn, "shop", since=BEGIN) == []


def test_an_absolute_latency_needs_no_base(conn: Connection) -> None:
    guardrails.put(conn, "shop", Guardrail("latency_p99_ms", "max", 50.0))
    serve(conn, 2, ms=5.0)
    assert broken(conn) == []

    serve(conn, 2, ms=60.0, seed=9)
    assert broken(conn) == ["latency_p99_ms"]


# configuration ---------------------------------------------------------------------


def test_a_bound_replaces_the_default_until_it_is_removed(conn: Connection) -> None:
    def rail() -> Guardrail:
        found = guardrails.guardrails(conn, "shop")
        return next(r for r in found if r.metric == "error_rate")

    before = rail()
    mine = Guardrail("error_rate", "max", 0.5, 10, "stop")
    guardrails.put(conn, "shop", mine)
    assert rail() == mine
    guardrails.put(conn, "shop", Guardrail("error_rate", "off"))
    serve(conn, 2, error=1.0)
    assert broken(conn) == []

    assert guardrails.remove(conn, "shop", "error_rate")
    assert not guardrails.remove(conn, "shop", "error_rate")
    assert rail() == before
    assert before.default


@pytest.mark.parametrize(
    "rail",
    [
        Guardrail("error_rate", "max", 0.0),
        Guardrail("error_rate", "max", 1.0),
        Guardrail("error_rate", "max", float("nan")),
        Guardrail("error_rate", "max_drop", 0.1),
        Guardrail("latency_p99_ms", "max_ratio", 1.0),
        Guardrail("latency_p99_ms", "max", float("inf")),
        Guardrail("latency_p99_ms", "max", -5.0),
        Guardrail("ctr", "max_drop", 10.0),
        Guardrail("ctr", "max", 0.1),
        Guardrail("ctr", "max_drop", 0.1, min_sample=0),
        Guardrail("ctr", "max_drop", 0.1, action="panic"),  # type: ignore[arg-type]
        Guardrail("joy", "max", 0.1),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_bounds_that_make_no_sense_are_refused(
    conn: Connection, rail: Guardrail
) -> None:
    with pytest.raises(ConfigError) as caught:
        guardrails.put(conn, "shop", rail)

    assert str(caught.value)


def test_an_unknown_model_is_refused(conn: Connection) -> None:
    with pytest.raises(UnknownModel):
        guardrails.check(conn, "nope", since=BEGIN)
    with pytest.raises(UnknownModel):
        guardrails.put(conn, "nope", Guardrail("ctr", "max_drop", 0.1))
    with pytest.raises(UnknownModel):
        guardrails.remove(conn, "nope", "ctr")
    with pytest.raises(ConfigError):
        guardrails.remove(conn, "shop", "joy")


def test_a_trainer_may_set_and_check(town: str) -> None:
    with _db.connect(world.as_role(town, "recsys_trainer")) as conn:
        watch(conn)
        serve(conn, 2)
        assert guardrails.check(conn, "shop", since=BEGIN) == []
        conn.rollback()


def test_a_reading_says_whether_there_was_enough_to_fire(conn: Connection) -> None:
    """Too few of the base are too few for what compares the two."""

    def short() -> set[str]:
        found = guardrails.readings(conn, "shop", since=BEGIN)
        return {r.guardrail.metric for r in found if not r.enough}

    assert short() == {"error_rate", "degraded_rate", "short_page_rate"}
    serve(conn, 2)
    assert short() == {"degraded_rate", "short_page_rate"}
    serve(conn, 1)
    assert short() == set()
