"""Experiments: what may be created and started, who is assigned, what is refused."""

from __future__ import annotations

import psycopg
import pytest
import world
from psycopg import errors as pg
from world import Shop

from recsys import Recommender, _db, retrieval
from recsys.assignment import Arm, bucket
from recsys.errors import (
    ArtifactError,
    ConfigError,
    RecsysError,
    UnknownModel,
    UnknownVersion,
)
from recsys.errors import VersionStateError as StateError
from recsys.experiment import store
from recsys.experiment.checks import chi_square_tail
from recsys.experiment.metrics import Metric, parse_metric
from recsys.experiment.store import parse_arm

ARMS = [Arm("control", 1, 50), Arm("new", 2, 50)]


def start(conn: _db.Connection, name: str, reason: str = "for a test") -> None:
    """Start without the comparisons."""
    store.start(conn, name, reason=reason, force=True)


@pytest.fixture
def conn(shop: Shop):
    with _db.connect(shop.dsn) as conn:
        yield conn


def generation(conn: _db.Connection) -> int:
    row = conn.execute("select generation from recsys.model").fetchone()
    assert row
    return row[0]


# a life -----------------------------------------------------------------------------


def test_an_experiment_is_a_draft_then_runs_then_is_stopped(
    conn: _db.Connection,
) -> None:
    before = generation(conn)
    made = store.create(conn, "bigger", "shop", ARMS, hypothesis="more clicks")
    assert made.state == "draft"
    assert made.arms == "control=1:50* new=2:50"
    assert generation(conn) == before

    start(conn, "bigger", reason="why not")
    assert store.get(conn, "bigger").state == "running"
    assert generation(conn) == before + 1

    store.stop(conn, "bigger", reason="clicks fell")
    store.keep_results(conn, "bigger")
    stopped = store.list_experiments(conn, "shop")[0]
    assert (stopped.state, stopped.reason) == ("stopped", "clicks fell")
    assert generation(conn) == before + 2
    audit = conn.execute(
        "select before ->> 'state', after ->> 'state', reason, numbers"
        " from recsys.audit where kind = 'experiment' order by id"
    ).fetchall()
    assert [row[:3] for row in audit] == [
        (None, "draft", "more clicks"),
        ("draft", "running", "forced: why not"),
        ("running", "stopped", "clicks fell"),
        ("stopped", "stopped", "results"),
    ]
    assert audit[3][3]["ctr new"]["note"] == "no exposures"


def test_a_rolled_back_start_assigns_nobody(conn: _db.Connection) -> None:
    store.create(conn, "bigger", "shop", ARMS)
    conn.commit()

    start(conn, "bigger")
    conn.rollback()

    assert store.get(conn, "bigger").state == "draft"
    assert conn.execute("select recsys._experiment_uses('shop', 2)").fetchone() == (
        None,
    )


def test_a_version_in_use_is_named_and_can_neither_be_retired_nor_dropped(
    conn: _db.Connection,
) -> None:
    store.create(conn, "bigger", "shop", ARMS)
    start(conn, "bigger")

    uses = "select recsys._experiment_uses('shop', %s)"
    assert conn.execute(uses, (2,)).fetchone() == ("bigger",)
    assert conn.execute(uses, (3,)).fetchone() == (None,)
    for statement in (
        "select recsys._retire('shop', 2, '')",
        "select recsys._retire_for_drop('shop', 2)",
    ):
        with (
            pytest.raises(pg.ObjectNotInPrerequisiteState, match="bigger"),
            conn.transaction(),
        ):
            conn.execute(statement.encode())

    store.stop(conn, "bigger")
    conn.execute("select recsys._retire('shop', 2, '')")


def test_arms_metrics_and_settings_stay_once_it_has_started(
    conn: _db.Connection,
) -> None:
    store.create(conn, "bigger", "shop", ARMS)
    conn.execute("update recsys.experiment_arm set settings = '{}'")
    start(conn, "bigger")

    for statement in (
        "update recsys.experiment_arm set share = 10 where arm = 'new'",
        "insert into recsys.experiment_arm values ('bigger', 'third', 2, 10)",
        "delete from recsys.experiment_metric",
        "update recsys.experiment set salt = 'x'",
        "update recsys.experiment set alpha = 0.4",
    ):
        with pytest.raises(pg.ObjectNotInPrerequisiteState), conn.transaction():
            conn.execute(statement.encode())


def test_starting_waits_for_a_promotion_a_few_seconds_only(
    shop: Shop, conn: _db.Connection
) -> None:
    store.create(conn, "bigger", "shop", ARMS)
    conn.commit()
    with _db.connect(shop.dsn) as other:
        other.execute("select from recsys.model for update")

        with pytest.raises(StateError):
            start(conn, "bigger")

    conn.rollback()
    assert store.get(conn, "bigger").state == "draft"


def test_an_arm_serves_only_a_version_that_passed_its_comparison(
    conn: _db.Connection,
) -> None:
    store.create(conn, "bigger", "shop", ARMS)
    conn.commit()
    with pytest.raises(StateError, match=r"arm new .*was not compared") as caught:
        store.start(conn, "bigger")
    assert "start with --force" in (caught.value.hint or "")

    for passed, standard in ((False, True), (True, False)):
        compared(conn, passed, standard)
        with pytest.raises(StateError, match="arm new"):
            store.start(conn, "bigger")
    assert store.get(conn, "bigger").state == "draft"

    compared(conn, True, True)
    store.start(conn, "bigger")
    assert store.get(conn, "bigger").state == "running"


def compared(conn: _db.Connection, passed: bool, standard: bool) -> None:
    conn.execute(
        "insert into recsys.comparison (model, number, base_number, users, hits, k,"
        " sample_percent, limited, passed, verdict, standard, metrics)"
        " values ('shop', 2, 1, 100, 100, 20, 100, false, %s, 'words', %s, '{}')",
        (passed, standard),
    )


def test_force_needs_a_reason_and_is_audited(conn: _db.Connection) -> None:
    store.create(conn, "bigger", "shop", ARMS)
    for reason in ("", "  "):
        with pytest.raises(ConfigError, match="needs a reason") as caught:
            store.start(conn, "bigger", force=True, reason=reason)
        assert caught.value.hint

    store.start(conn, "bigger", force=True, reason="a rehearsal")

    row = conn.execute(
        "select reason from recsys.audit where after ->> 'state' = 'running'"
    ).fetchone()
    assert row == ("forced: a rehearsal",)


def test_an_arm_whose_tower_does_not_answer_is_refused(conn: _db.Connection) -> None:
    store.create(conn, "bigger", "shop", ARMS)
    conn.execute(
        "update recsys.model_version set artifacts = artifacts || jsonb_build_object("
        "'query_tower', artifacts ->> 'item_tower') where number = 2"
    )

    with pytest.raises(ArtifactError, match="version 2"):
        start(conn, "bigger")

    assert store.get(conn, "bigger").state == "draft"


def test_a_stopped_experiment_counts_as_serving_its_versions_until_then(
    conn: _db.Connection,
) -> None:
    store.create(conn, "bigger", "shop", ARMS)
    start(conn, "bigger")
    before = "select last_served_at from recsys.model_version where number = 2"
    assert conn.execute(before).fetchone() == (None,)

    store.stop(conn, "bigger")

    assert conn.execute(f"{before} and last_served_at = now()".encode()).fetchone()


# assignment -------------------------------------------------------------------------


def test_requests_are_served_by_the_version_of_their_arm(conn: _db.Connection) -> None:
    store.create(conn, "bigger", "shop", ARMS, traffic=50)
    units = [str(n) for n in range(200)]
    preview = store.preview(conn, "bigger", units)
    start(conn, "bigger")

    served = [
        conn.execute("select recsys._assign('shop', %s)", (unit,)).fetchone()
        for unit in units
    ]

    # Outside the experiment version 1 serves.
    assert [row[0] for row in served if row] == [
        2 if arm == "new" else 1 for arm in preview
    ]
    assert 70 < sum(arm is None for arm in preview) < 130
    plan = retrieval.plan(conn, "shop")
    assert plan
    assigned = [plan.assign(unit) for unit in units]
    assert [a.arm for a in assigned if a] == preview


def test_the_recommender_exposes_and_serves_whom_the_preview_names(shop: Shop) -> None:
    users = range(1, 31)
    with _db.connect(shop.dsn) as conn:
        store.create(conn, "bigger", "shop", ARMS, traffic=70)
        preview = store.preview(conn, "bigger", [str(user) for user in users])
        start(conn, "bigger")

    with Recommender("shop", dsn=shop.dsn, impressions="transaction") as recommender:
        served = [recommender.recommend(user, k=3).version for user in users]

    with _db.connect(shop.dsn) as conn:
        exposed = dict(conn.execute("select unit, arm from recsys.exposure").fetchall())
    assert served == [2 if arm == "new" else 1 for arm in preview]
    assert exposed == {
        str(user): arm
        for user, arm in zip(users, preview, strict=True)
        if arm is not None
    }


def test_a_unit_keeps_its_arm_and_traffic_moves_nobody_between_arms(
    conn: _db.Connection,
) -> None:
    units = [str(n) for n in range(3_000)]
    store.create(conn, "small", "shop", ARMS, traffic=10)
    conn.execute("alter table recsys.experiment drop constraint experiment_salt_key")
    store.create(conn, "wide", "shop", ARMS, traffic=60)
    conn.execute("update recsys.experiment set salt = 'same'")

    small = store.preview(conn, "small", units)
    wide = store.preview(conn, "wide", units)

    assert small == store.preview(conn, "small", units)
    pairs = [(a, b) for a, b in zip(small, wide, strict=True) if a is not None]
    assert len(pairs) > 200
    assert all(a == b for a, b in pairs)


def test_experiments_are_independent_of_each_other_and_of_the_rollout(
    conn: _db.Connection,
) -> None:
    units = [str(n) for n in range(20_000)]
    arms = [Arm("a", 1, 30), Arm("b", 2, 50), Arm("c", 1, 20)]
    columns = []
    for name in ("first", "second"):
        store.create(conn, name, "shop", arms)
        columns.append([arm or "" for arm in store.preview(conn, name, units)])
    row = conn.execute("select salt from recsys.model").fetchone()
    assert row
    columns.append(["in" if bucket(row[0], u) < 1_000 else "out" for u in units])

    for column, shares in ((columns[0], (30, 50, 20)), (columns[2], (10, 90))):
        for value, share in zip(sorted(set(column)), shares, strict=True):
            assert column.count(value) == pytest.approx(200 * share, rel=0.06)
    for left, right in ((0, 1), (0, 2), (1, 2)):
        p = independence(columns[left], columns[right])
        assert p > 1e-6, (left, right)
    assert independence(columns[0], columns[0]) < 1e-6


def independence(left: list[str], right: list[str]) -> float:
    """p-value of the chi-square test of a contingency table."""
    rows, columns, n = sorted(set(left)), sorted(set(right)), len(left)
    pairs = list(zip(left, right, strict=True))
    statistic = 0.0
    for a in rows:
        for b in columns:
            expected = left.count(a) * right.count(b) / n
            statistic += (pairs.count((a, b)) - expected) ** 2 / expected
    return chi_square_tail(statistic, (len(rows) - 1) * (len(columns) - 1))


# bad input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "nosuch"}, UnknownModel, "nosuch"),
        ({"arms": [Arm("a", 1, 50), Arm("b", 9, 50)]}, UnknownVersion, "version 9"),
        ({"arms": [Arm("a", 1, 50), Arm("b", 2, 49)]}, ConfigError, "99, not 100"),
        ({"arms": [Arm("a", 1, 100)]}, ConfigError, "two arms"),
        ({"arms": [Arm("a", 1, 50), Arm("a", 2, 50)]}, ConfigError, "different names"),
        ({"arms": [Arm("a", 1, 100), Arm("b", 2, 0)]}, ConfigError, "above 0"),
        ({"arms": [Arm("a", 1, -50), Arm("b", 2, 150)]}, ConfigError, "above 0"),
        ({"arms": [Arm("a", 1, 33.333), Arm("b", 2, 66.667)]}, ConfigError, "two dec"),
        ({"arms": [Arm("a", None, 50), Arm("b", 2, 50)]}, ConfigError, "no version"),
        ({"control": "x"}, ConfigError, "no arm is named"),
        ({"name": "Bad Name"}, ConfigError, "Bad Name"),
        ({"traffic": 0}, ConfigError, "traffic"),
        ({"traffic": 101}, ConfigError, "traffic"),
        ({"traffic": float("nan")}, ConfigError, "traffic"),
        ({"alpha": 0}, ConfigError, "alpha"),
        ({"expected_users": 0}, ConfigError, "expected users"),
        ({"covariate_days": -1}, ConfigError, "covariate days"),
        ({"metrics": []}, ConfigError, "metrics"),
        ({"metrics": [Metric("x", "count(a)")] * 2}, ConfigError, "different names"),
        ({"metrics": [Metric("x", "taps")]}, ConfigError, "taps"),
        ({"metrics": [Metric("x", "items", "sum(a)")]}, ConfigError, "cannot measure"),
        ({"metrics": [Metric("x", "sum(click)")]}, ConfigError, "'click'.*no weight"),
        ({"metrics": [Metric("X", "items")]}, ConfigError, "name of a metric"),
    ],
)
def test_what_cannot_be_created_is_refused_with_a_hint(
    conn: _db.Connection, change: dict, error: type[RecsysError], words: str
) -> None:
    options = {"name": "bigger", "model": "shop", "arms": ARMS, **change}

    with pytest.raises(error, match=words) as caught:
        store.create(conn, **options)

    assert caught.value.hint
    assert store.list_experiments(conn) == []


def test_a_name_is_taken_once_and_the_transaction_goes_on(conn: _db.Connection) -> None:
    store.create(conn, "bigger", "shop", ARMS)

    with pytest.raises(ConfigError, match="already"):
        store.create(conn, "bigger", "shop", ARMS)

    assert len(store.list_experiments(conn)) == 1


@pytest.mark.parametrize(
    ("state", "words"), [("building", "is building"), (None, "does not exist")]
)
def test_an_experiment_starts_only_with_versions_that_can_serve(
    conn: _db.Connection, state: str | None, words: str
) -> None:
    store.create(conn, "bigger", "shop", ARMS)
    if state:
        conn.execute(
            "update recsys.model_version set state = %s where number = 2", (state,)
        )
    else:
        conn.execute("update recsys.experiment_arm set number = 9 where arm = 'new'")

    with pytest.raises(StateError, match=words) as caught:
        start(conn, "bigger")

    assert caught.value.hint


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("update recsys.experiment_arm set share = 40 where arm = 'new'", "90"),
        ("delete from recsys.experiment_arm where arm = 'new'", "two arms"),
        ("update recsys.experiment_arm set is_control = false", "one control"),
        ("update recsys.experiment_arm set number = null", "version"),
        ("delete from recsys.experiment_metric", "primary metric"),
    ],
)
def test_a_draft_changed_by_hand_is_checked_at_the_start(
    conn: _db.Connection, statement: str, words: str
) -> None:
    store.create(conn, "bigger", "shop", ARMS)
    conn.execute(statement.encode())

    with pytest.raises(StateError, match=words):
        start(conn, "bigger")


def test_two_controls_cannot_be_stored(conn: _db.Connection) -> None:
    store.create(conn, "bigger", "shop", ARMS)

    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("update recsys.experiment_arm set is_control = true")


def test_transitions_that_make_no_sense_are_refused(conn: _db.Connection) -> None:
    for act in (store.start, store.stop, store.get, store.keep_results):
        with pytest.raises(ConfigError, match="unknown experiment") as caught:
            act(conn, "nosuch")
        assert caught.value.hint
    with pytest.raises(ConfigError):
        store.preview(conn, "nosuch", ["1"])
    with pytest.raises(UnknownModel):
        store.list_experiments(conn, "nosuch")
    store.create(conn, "bigger", "shop", ARMS)
    store.create(conn, "second", "shop", ARMS)
    with pytest.raises(StateError, match="draft, not running"):
        store.stop(conn, "bigger")
    start(conn, "bigger")
    with pytest.raises(StateError, match="running already"):
        start(conn, "bigger")
    with pytest.raises(StateError, match="bigger of model shop is running"):
        start(conn, "second")
    store.stop(conn, "bigger")
    with pytest.raises(StateError, match="stopped already"):
        start(conn, "bigger")
    store.stop(conn, "bigger", reason="ignored")
    assert store.get(conn, "bigger").reason == ""
    start(conn, "second")


@pytest.mark.parametrize("text", ["", "new", "new=2", "new=x:50", "N=2:50", "a=2:nan"])
def test_arms_are_read_strictly(text: str) -> None:
    with pytest.raises(ConfigError, match="not an arm"):
        parse_arm(text)
    assert parse_arm("new=2:33.33") == Arm("new", 2, 33.33)


def test_metrics_are_presets_or_formulas() -> None:
    assert parse_metric("ctr") == Metric("ctr", "clicks", "impressions")
    assert parse_metric("x=sum(buy)") == Metric("x", "sum(buy)", "users")
    assert parse_metric("x=sum( buy )") == Metric("x", "sum(buy)", "users")
    assert parse_metric("x=count(*)/items") == Metric("x", "count(*)", "items")
    for text in ("nosuch", "x=", "x=users", "x=count()", "=items", "x=items/zero"):
        with pytest.raises(ConfigError) as caught:
            parse_metric(text)
        assert caught.value.hint


def test_the_application_assigns_and_exposes_but_starts_nothing(shop: Shop) -> None:
    with _db.connect(shop.dsn) as conn:
        store.create(conn, "bigger", "shop", ARMS)
        start(conn, "bigger")
    with _db.connect(world.as_role(shop.dsn, "recsys_app"), autocommit=True) as conn:
        conn.execute("insert into recsys.exposure values ('bigger', '1', 'new')")
        assert conn.execute("select name from recsys.experiment").fetchall()
        for statement in (
            "select recsys._experiment_stop('bigger')",
            "select from recsys.exposure",
            "update recsys.experiment set state = 'stopped'",
        ):
            with pytest.raises(pg.InsufficientPrivilege):
                conn.execute(statement.encode())
    with _db.connect(world.as_role(shop.dsn, "recsys_trainer")) as conn:
        store.stop(conn, "bigger")
