"""Results: what is counted for whom, SQL against Python, too little to say anything."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import world
from psycopg import errors as pg

from recsys import _db
from recsys.assignment import Arm
from recsys.errors import ConfigError
from recsys.experiment import checks, plot, report, store
from recsys.experiment.metrics import PRESETS, Metric
from recsys.experiment.moments import Moments, from_users, pooled
from recsys.experiment.stats import Comparison, compare, critical_value

START = datetime.fromisoformat("2026-05-01T00:00:00+00:00")
ARMS = [Arm("control", 1, 40), Arm("new", 2, 30), Arm("other", 2, 30)]
METRICS = [
    Metric("ctr", "count(click)", "impressions"),
    PRESETS["conversion"],
    PRESETS["revenue"],
    Metric("per_item", "count(*)", "items"),
    Metric("per_buyer", "count(click)", "any(purchase)"),
]


def started(
    db: _db.Connection,
    arms: list[Arm] = ARMS,
    metrics: list[Metric] = METRICS,
    **options: Any,
) -> None:
    """An experiment that started on START, on a model without real versions."""
    db.execute("insert into recsys.model values ('shop', 'bigint', 'bigint', 2)")
    db.execute(
        "insert into recsys.model_version (model, number, state, dim, spec, artifacts)"
        " select 'shop', n, 'ready', 8, '{}', '{}' from generate_series(1, 2) as n"
    )
    db.execute("insert into recsys.retention values ('shop', '100 years')")
    store.create(db, "test", "shop", arms, metrics=metrics, **options)
    db.execute("select recsys._experiment_start('test', 'made by hand', true)")
    db.execute("update recsys.experiment set started_at = %s", (START,))


def expose(db: _db.Connection, unit: object, arm: str, day: float = 0.0) -> None:
    at = START + timedelta(days=day)
    db.execute(
        "insert into recsys.exposure values ('test', %s, %s, %s)", (str(unit), arm, at)
    )


def show(db: _db.Connection, unit: object, day: float, **columns: Any) -> None:
    row = {
        "request_id": uuid4(), "model": "shop", "version": 1, "unit": str(unit),
        "occurred_at": START + timedelta(days=day), "item_ids": ["1", "2"], "k": 2,
        **columns,
    }  # fmt: skip
    names = ", ".join(row)
    places = ", ".join(f"%({name})s" for name in row)
    db.execute(
        f"insert into recsys.impression ({names}) values ({places})".encode(), row
    )


def act(
    db: _db.Connection,
    user: object,
    kind: str,
    day: float,
    value: float | None = None,
    *,
    request: UUID | None = None,
    item: str = "1",
) -> None:
    db.execute(
        "insert into recsys.outcome"
        " (model, user_id, item_id, kind, value, occurred_at, request_id)"
        " values ('shop', %s, %s, %s, %s, %s, %s)",
        (str(user), item, kind, value, START + timedelta(days=day), request),
    )


def unit_row(db: _db.Connection, metric: str, unit: str = "1") -> tuple[float, ...]:
    row = db.execute(
        "select numerator, denominator, covariate, covariate_denominator from"
        " recsys._experiment_unit('test', now()) where metric = %s and unit = %s",
        (metric, unit),
    ).fetchone()
    assert row
    return row


def fill(db: _db.Connection, seed: int = 0, users: int = 700) -> None:
    """Exposed users with a taste of their own, before and after."""
    rng = np.random.default_rng(seed)
    arms = rng.choice(["control", "new", "other"], users, p=[0.4, 0.3, 0.3])
    exposures: list[tuple[Any, ...]] = []
    shown: list[tuple[Any, ...]] = []
    done: list[tuple[Any, ...]] = []
    for user in range(users):
        entered = float(rng.uniform(0, 5))
        at = START + timedelta(days=entered)
        exposures.append(("test", str(user), str(arms[user]), at))
        taste = rng.beta(2, 8) * (1.3 if arms[user] == "new" else 1.0)
        past = rng.uniform(-10, 0, rng.poisson(4))
        for day in (*past, *rng.uniform(entered, 9, rng.poisson(5) + 1)):
            at = START + timedelta(days=float(day))
            items = [str(i) for i in range(rng.integers(1, 9))]
            shown.append((uuid4(), "shop", str(user), at, items, 9))
            later = at + timedelta(minutes=1)
            if rng.random() < taste:
                done.append(("shop", str(user), "1", "click", None, later))
            if rng.random() < taste / 3:
                value = round(float(rng.lognormal(2)), 2)
                done.append(("shop", str(user), "1", "purchase", value, later))
    for table, rows in (
        ("exposure (experiment, unit, arm, first_at)", exposures),
        ("impression (request_id, model, unit, occurred_at, item_ids, k)", shown),
        ("outcome (model, user_id, item_id, kind, value, occurred_at)", done),
    ):
        with db.cursor().copy(f"copy recsys.{table} from stdin".encode()) as copy:
            for row in rows:
                copy.write_row(row)
    db.execute("analyze recsys.exposure, recsys.impression, recsys.outcome")


# what is counted --------------------------------------------------------------------


def test_only_what_happens_after_the_exposure_counts(db: _db.Connection) -> None:
    started(db)
    expose(db, 1, "new", day=2)
    for day in (1.5, 2.5, 3.0):
        show(db, 1, day)
        act(db, 1, "click", day)
    act(db, 1, "purchase", 1.0, 99)
    act(db, 1, "purchase", 4.0, 20)
    act(db, 1, "purchase", 5.0, None)

    assert unit_row(db, "ctr")[:2] == (2, 2)
    assert unit_row(db, "revenue")[:2] == (20, 1)
    assert unit_row(db, "conversion")[:2] == (1, 1)
    assert unit_row(db, "per_item")[:2] == (4, 4)
    assert unit_row(db, "per_buyer")[:2] == (2, 1)


def test_what_is_somebody_elses_does_not_count(db: _db.Connection) -> None:
    started(db)
    db.execute("insert into recsys.model values ('other', 'bigint', 'bigint', 1)")
    expose(db, 1, "new", day=0)
    expose(db, 2, "control", day=0)
    show(db, 1, 1, model="other")
    show(db, 1, 1, error="it failed", item_ids=[])
    show(db, 1, 1)
    act(db, 3, "click", 1)
    act(db, 1, "view", 1)
    db.execute("update recsys.outcome set model = 'other' where kind = 'view'")

    assert unit_row(db, "ctr")[:2] == (0, 2)  # a failed answer is one without a click
    assert unit_row(db, "ctr", "2")[:2] == (0, 0)
    assert unit_row(db, "per_item")[:2] == (0, 2)


def test_the_answer_that_exposes_counts_whatever_the_clock_says(
    db: _db.Connection,
) -> None:
    started(db)
    expose(db, 1, "new", day=1)
    show(db, 1, 0.9999, experiment="test", arm="new")

    assert unit_row(db, "ctr")[1] == 1


@pytest.mark.parametrize("days", [0, 14])
def test_what_carries_the_experiment_is_never_past(
    db: _db.Connection, days: int
) -> None:
    """A request process whose clock is behind that of the database."""
    started(db, covariate_days=days)
    expose(db, 1, "new", day=0.1)
    request = uuid4()
    show(db, 1, -0.001, request_id=request, experiment="test", arm="new")
    act(db, 1, "click", -0.0005, request=request)

    assert unit_row(db, "ctr") == (1, 1, 0, 0)


def test_an_outcome_is_of_the_unit_whose_answer_it_names(db: _db.Connection) -> None:
    """So that those of a session count, whose key is no id of a user."""
    started(db)
    expose(db, "sess-abc", "new", day=0)
    expose(db, 7, "control", day=0)
    request = uuid4()
    show(db, "sess-abc", 1, request_id=request, user_id=None)
    act(db, 7, "purchase", 2, 20, request=request)
    act(db, 7, "purchase", 3, 5)
    act(db, 7, "purchase", 3, 1, request=uuid4())  # of an answer that was not logged

    assert unit_row(db, "revenue", "sess-abc")[0] == 20
    assert unit_row(db, "revenue", "7")[0] == 6


def test_ctr_is_that_of_the_versions(db: _db.Connection) -> None:
    """One word, one definition: answers that led to an outcome of any kind."""
    started(db, metrics=[PRESETS["ctr"]])
    expose(db, 1, "new", day=0)
    led, other = uuid4(), uuid4()
    show(db, 1, 1, request_id=led)
    show(db, 1, 1, request_id=other)
    show(db, 1, 1, error="it failed", item_ids=[])
    for kind in ("view", "purchase"):
        act(db, 1, kind, 2, request=led)
    act(db, 1, "view", 2, request=other, item="99")  # was not shown
    act(db, 1, "view", 2)

    assert unit_row(db, "ctr")[:2] == (1, 3)
    assert db.execute(
        "select sum(clicks), sum(impressions) from recsys.version_outcome"
    ).fetchone() == (1, 3)


def test_the_covariate_is_the_time_before_the_start(db: _db.Connection) -> None:
    started(db, covariate_days=3)
    expose(db, 1, "new", day=2)
    for day in (-4.0, -2.5, -0.1, 1.0):
        show(db, 1, day)
        act(db, 1, "click", day)

    assert unit_row(db, "ctr") == (0, 0, 2, 2)


def test_a_stopped_experiment_does_not_change_any_more(db: _db.Connection) -> None:
    started(db)
    fill(db, users=60)
    store.stop(db, "test")
    end = START + timedelta(days=6)
    db.execute("update recsys.experiment set stopped_at = %s", (end,))
    before = report.report(db, "test")

    expose(db, "late", "new", day=7)
    act(db, 1, "click", 8)
    show(db, 1, 8)

    after = report.report(db, "test")
    assert after == before
    assert sum(arm.users for arm in before.health) == 60
    assert report.results(db, "test", end) == list(before.results)
    assert report.results(db, "test", START + timedelta(days=3)) != before.results


# SQL against Python -----------------------------------------------------------------


def moments(db: _db.Connection, metric: str) -> dict[str, Moments]:
    rows = db.execute(
        "select arm, numerator, denominator, covariate, covariate_denominator"
        " from recsys._experiment_unit('test', now()) where metric = %s",
        (metric,),
    ).fetchall()
    return {
        arm.name: from_users(
            *np.array([row[1:] for row in rows if row[0] == arm.name]).T
        )
        for arm in ARMS
    }


@pytest.mark.parametrize("days", [14, 0], ids=["cuped", "no history"])
@pytest.mark.parametrize(("alpha", "tuned"), [(0.05, 5_000), (0.01, 200)])
def test_sql_and_python_agree(
    db: _db.Connection, days: int, alpha: float, tuned: int
) -> None:
    started(db, covariate_days=days, alpha=alpha, expected_users=tuned)
    fill(db)
    expected: dict[tuple[str, str], Comparison] = {}
    for metric in METRICS:
        arms = moments(db, metric.name)
        total = pooled(list(arms.values()))
        for arm in ("new", "other"):
            expected[metric.name, arm] = compare(
                arms["control"], arms[arm], total=total, alpha=alpha,
                expected_users=tuned,
            )  # fmt: skip

    rows = {(r.metric, r.arm): r for r in report.results(db, "test")}

    assert len(rows) == 15
    for key, theirs in expected.items():
        ours = rows[key]
        pairs = [
            (ours.users, theirs.treatment.users),
            (ours.mean, theirs.treatment.mean),
            (rows[key[0], "control"].mean, theirs.control.mean),
            (ours.difference, theirs.difference),
            (ours.se, theirs.se),
            (ours.low, theirs.interval and theirs.interval.low),
            (ours.high, theirs.interval and theirs.interval.high),
            (ours.sequence_low, theirs.sequence and theirs.sequence.low),
            (ours.sequence_high, theirs.sequence and theirs.sequence.high),
            (ours.lift, theirs.lift),
            (ours.lift_low, theirs.lift_interval and theirs.lift_interval.low),
            (ours.lift_high, theirs.lift_interval and theirs.lift_interval.high),
            (ours.lift_sequence_low, theirs.lift_sequence and theirs.lift_sequence.low),
            (ours.lift_sequence_high,
             theirs.lift_sequence and theirs.lift_sequence.high),
            (ours.p_value, theirs.p_value),
            (ours.sequential_p, theirs.sequential_p),
            (ours.variance_reduction, theirs.variance_reduction),
        ]  # fmt: skip
        for i, (a, b) in enumerate(pairs):
            assert a == pytest.approx(b, rel=1e-9, abs=1e-12), (key, i)
    adjusts = any(c.coefficient for c in expected.values())
    assert adjusts == (days > 0)
    for main in (True, False):
        family = [rows[key] for key in expected if rows[key].is_primary == main]
        for plain, adjusted in (
            ("p_value", "p_adjusted"),
            ("sequential_p", "sequential_p_adjusted"),
        ):
            wanted = checks.holm([getattr(r, plain) for r in family])
            assert [getattr(r, adjusted) for r in family] == pytest.approx(wanted)


def test_the_health_agrees_with_python_and_alarms(db: _db.Connection) -> None:
    started(db)
    fill(db)

    health = report.report(db, "test").health
    p = checks.sample_ratio([h.users for h in health], [40, 30, 30])
    assert health[0].sample_ratio_p == pytest.approx(p, rel=1e-9)
    assert not any(h.mismatch for h in health)

    db.execute("delete from recsys.exposure where arm = 'new' and unit > '4'")
    found = report.report(db, "test")
    assert all(h.mismatch for h in found.health)
    assert "new" in found.mismatch
    assert found.verdict == "No verdict while the sample ratio is wrong."


def test_the_functions_of_sql_equal_those_of_python(db: _db.Connection) -> None:
    for alpha in (0.3, 0.05, 0.001, 1e-6):
        row = db.execute("select recsys._critical_value(%s)", (alpha,)).fetchone()
        assert row == (pytest.approx(critical_value(alpha), rel=1e-12),)
    for statistic in (0.0, 0.5, 4.0, 60.0, 1_300.0):
        for df in range(1, 12):
            row = db.execute(
                "select recsys._chi_square_tail(%s::float8, %s)", (statistic, df)
            ).fetchone()
            wanted = checks.chi_square_tail(statistic, df)
            assert row == (pytest.approx(wanted, rel=1e-9, abs=1e-280),)


# nothing to say ---------------------------------------------------------------------


def notes(db: _db.Connection) -> set[str]:
    rows = report.results(db, "test")
    for row in rows:
        for name in row.__slots__:
            value = getattr(row, name)
            assert not isinstance(value, float) or math.isfinite(value), (name, row)
    return {row.note for row in rows if row.is_primary and not row.is_control}


def test_little_data_says_why_there_are_no_numbers(db: _db.Connection) -> None:
    started(db)
    assert notes(db) == {"no exposures"}
    assert "Nobody was exposed" in report.report(db, "test").verdict

    for unit, arm in enumerate(["control", "new", "other"]):
        expose(db, unit, arm)
    assert notes(db) == {"denominator is zero"}

    for unit in range(3):
        show(db, unit, 1)
    assert notes(db) == {"fewer than two users"}

    for unit, arm in enumerate(["control", "new", "other"] * 3, start=10):
        expose(db, unit, arm)
        show(db, unit, 1)
    assert notes(db) == {"no variance"}
    assert "Nothing can be said about new in ctr: no variance." in (
        report.report(db, "test").verdict
    )

    for unit in (10, 11, 12):
        act(db, unit, "click", 2)
    assert notes(db) == {""}
    assert "Too early" in report.report(db, "test").verdict


def test_drafts_have_no_results_and_strangers_are_refused(db: _db.Connection) -> None:
    started(db)
    store.create(db, "draft", "shop", ARMS)

    assert "draft" in report.report(db, "draft").verdict
    rows = db.execute("select distinct experiment from recsys.experiment_result")
    assert rows.fetchall() == [("test",)]
    for call in (report.report, report.results, report.course):
        with pytest.raises(ConfigError, match="nosuch") as caught:
            call(db, "nosuch")
        assert caught.value.hint
    with pytest.raises(pg.InvalidParameterValue, match="nosuch"):
        db.execute("select * from recsys.experiment_health_at('nosuch')")


def test_numbers_far_out_neither_overflow_nor_underflow(db: _db.Connection) -> None:
    started(db, metrics=[PRESETS["revenue"]])
    for unit in range(600):
        arm = ["control", "new", "other"][unit % 3]
        expose(db, unit, arm)
        act(db, unit, "purchase", 1, unit % 7 + (1e9 if arm == "new" else 0))

    assert notes(db) == {""}
    row = next(r for r in report.results(db, "test") if r.arm == "new")
    assert row.sequential_p is not None
    assert row.sequential_p < 1e-100


# verdicts, pages --------------------------------------------------------------------


def test_a_clear_difference_is_said_in_a_sentence_and_drawn(db: _db.Connection) -> None:
    started(
        db, arms=[Arm("control", 1, 50), Arm("new", 2, 50)], hypothesis="<b>more</b>"
    )
    rng = np.random.default_rng(0)
    for unit in range(600):
        new = unit % 2 == 1
        expose(db, unit, "new" if new else "control", day=unit / 100)
        show(db, unit, 6.5)
        if rng.random() < (0.6 if new else 0.2):
            act(db, unit, "click", 6.6 + unit / 1_000)
    store.stop(db, "test")
    db.execute(
        "update recsys.experiment set stopped_at = %s", (START + timedelta(days=9),)
    )

    found = report.report(db, "test")
    course = report.course(db, "test")
    page = plot.page(found, course)

    assert found.verdict.startswith("new is higher than control in ctr: +")
    assert len(course) == 12
    assert course[-1][1] == list(found.results)
    assert page.count("<svg") >= 1
    assert "&lt;b&gt;more" in page
    assert found.verdict in page
    assert "nan" not in page.lower().replace("finance", "")
    assert "http" not in page


def two_arms(db: _db.Connection, share: float, arms: int = 2) -> report.Report:
    """Conversions of 20 % in the control, of ``share`` in every treatment."""
    names = ["control", "new", "other"][:arms]
    started(
        db,
        arms=[Arm(name, 1, 50 if arms == 2 else 30 + 10 * (i == 0)) for i, name in
              enumerate(names)],
        metrics=[PRESETS["conversion"]],
    )  # fmt: skip
    for index, name in enumerate(names):
        of_thousand = 200 if index == 0 else round(share * 1000)
        db.execute(
            "insert into recsys.exposure select 'test', %s || n, %s, %s"
            " from generate_series(1, %s) as n",
            (name, name, START, 400 if arms == 3 and not index else 300),
        )
        db.execute(
            "insert into recsys.outcome (model, user_id, item_id, kind, occurred_at)"
            " select 'shop', %s || n, '1', 'purchase', %s from generate_series(1, 400)"
            " as n where n * 7 %% 100 < %s",
            (name, START + timedelta(days=1), of_thousand / 10),
        )
    return report.report(db, "test")


@pytest.mark.parametrize("arms", [2, 3])
def test_the_interval_of_a_verdict_is_what_decides(
    db: _db.Connection, arms: int
) -> None:
    """Never "is higher" beside an interval with 0, at the border either."""
    seen = set()
    for percent in range(30, 44):
        with db.transaction(force_rollback=True):
            found = two_arms(db, percent / 100, arms)
            for sentence in found.verdict.split(". ")[: arms - 1]:
                low, high = (
                    float(word.strip(".,"))
                    for word in sentence.split("between ")[-1].split(" and ")
                )
                higher = "is higher" in sentence
                assert higher == (low > 0), sentence
                assert low < high
                seen.add(higher)
            assert ("widened for 2 comparisons" in found.verdict) == (arms == 3)
    assert seen == {False, True}


def test_more_arms_widen_the_intervals_of_the_verdict(db: _db.Connection) -> None:
    rows = []
    for arms in (2, 3):
        with db.transaction(force_rollback=True):
            found = two_arms(db, 0.3, arms)
            result = next(r for r in found.results if r.arm == "new")
            low = float(
                found.verdict.split(": ")[1].split("between ")[1].split(" and ")[0]
            )
            assert result.sequence_low is not None
            rows.append((low, result.sequence_low))
    assert rows[0][0] == pytest.approx(rows[0][1], rel=1e-3)
    assert rows[1][0] < rows[1][1] - 0.005


def test_data_that_are_not_kept_are_told(db: _db.Connection) -> None:
    started(db, covariate_days=10)
    fill(db, users=300)
    whole = report.report(db, "test")
    assert whole.missing == ""
    assert whole.verdict

    age = "update recsys.retention set keep = now() - %s::timestamptz"
    for day, words in ((-5, "CUPED knows less"), (2, "the start was on 2026-05-01")):
        db.execute(age, (START + timedelta(days=day),))
        found = report.report(db, "test")
        assert words in found.missing
        assert {words in r.note for r in found.results} == {True}
        assert found.verdict == whole.verdict
    db.execute("delete from recsys.retention")  # 90 days
    db.execute("update recsys.experiment set started_at = now() - interval '85 days'")
    assert "CUPED" in report.report(db, "test").missing


def test_a_page_of_an_experiment_without_data_is_a_page(db: _db.Connection) -> None:
    started(db)

    page = plot.page(report.report(db, "test"), report.course(db, "test"))

    assert "Nobody was exposed" in page
    assert "<svg" not in page


def test_analysts_read_results_and_nothing_else(db: _db.Connection, dsn: str) -> None:
    started(db)
    fill(db, users=50)
    db.commit()

    with _db.connect(world.as_role(dsn, "recsys_analyst"), autocommit=True) as conn:
        found = report.report(conn, "test")
        assert len(found.results) == 15
        for view in ("result", "health", "status"):
            query = f"select * from recsys.experiment_{view}"
            assert conn.execute(query.encode()).fetchall()
        for name in ("experiment", "experiment_arm", "experiment_metric", "exposure"):
            with pytest.raises(pg.InsufficientPrivilege):
                conn.execute(f"select from recsys.{name}".encode())
