"""Experiments: create, start, stop, list, and who would be in which arm."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation

from psycopg import errors as pg
from psycopg.rows import class_row

from recsys import assignment, rollout, versions
from recsys._db import Connection, translated
from recsys.assignment import Arm
from recsys.errors import ConfigError
from recsys.experiment.metrics import PRESETS, Metric, check_kinds, check_metric
from recsys.experiment.stats import EXPECTED_USERS

COVARIATE_DAYS = 14
"""Days before the start that CUPED reads, unless said otherwise."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}")
_ARM = re.compile(r"([a-z0-9][a-z0-9_-]{0,31})=(\d{1,9}):(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Experiment:
    """One row of ``recsys.experiment_status``."""

    experiment: str
    model: str
    state: str
    traffic: Decimal
    arms: str
    primary_metric: str
    alpha: float
    expected_users: int
    covariate_days: int
    hypothesis: str
    created_at: datetime
    created_by: str
    started_at: datetime | None
    stopped_at: datetime | None
    reason: str


def parse_arm(text: str) -> Arm:
    """Read an arm such as ``new=2:50``: name, version, percent of the users.

    Raises:
        ConfigError: It does not look like that.
    """
    match = _ARM.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"not an arm: {text!r}",
            hint="Write NAME=VERSION:PERCENT in lower case, such as new=2:50.",
        )
    return Arm(match[1], int(match[2]), float(match[3]))


def create(
    conn: Connection,
    name: str,
    model: str,
    arms: Sequence[Arm],
    *,
    control: str | None = None,
    metrics: Sequence[Metric] = (PRESETS["ctr"],),
    traffic: float = 100,
    hypothesis: str = "",
    alpha: float = 0.05,
    expected_users: int = EXPECTED_USERS,
    covariate_days: int = COVARIATE_DAYS,
) -> Experiment:
    """Write down an experiment as a draft; nobody is assigned before ``start``.

    Args:
        conn: A connection; the caller commits.
        name: Name of the experiment.
        model: The model it runs on.
        arms: Two or more, whose shares add up to 100.
        control: Name of the arm the others are compared with; default: the arm named
            "control", else the first.
        metrics: The first is the primary one, which decides.
        traffic: Percent of the users that take part, above 0 to 100.
        hypothesis: What is expected to happen and why.
        alpha: Chance of a false alarm, in (0, 0.5).
        expected_users: Users, of control and one treatment, at which the confidence
            sequences are narrowest.
        covariate_days: Days before the start that CUPED reads, 0 to 365.

    Returns:
        The experiment.

    Raises:
        UnknownModel: No model of that name is registered.
        UnknownVersion: An arm names a version that does not exist.
        ConfigError: A name is taken or malformed, a number out of range, or a metric
            counts a kind that the model does not know.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"not a name of an experiment: {name!r}",
            hint="Lower-case letters, digits, - and _, a letter first, at most 48.",
        )
    chosen = _check_arms(arms, control)
    _check_numbers(traffic, alpha, expected_users, covariate_days)
    for metric in metrics:
        check_metric(metric)
    if len({metric.name for metric in metrics}) != len(metrics) or not metrics:
        raise ConfigError(
            "an experiment needs metrics with different names",
            hint="The first one decides.",
        )
    for arm in arms:
        if arm.number is None:
            raise ConfigError(f"arm {arm.name} has no version", hint="Give it one.")
        versions.get(conn, model, arm.number)
        check_kinds(conn, model, arm.number, metrics)
    row = (
        name, model, traffic, hypothesis, metrics[0].name, alpha, expected_users,
        covariate_days,
    )  # fmt: skip
    with _name_taken(name), conn.transaction():
        _insert(conn, row, arms, chosen, metrics)
        conn.execute(
            "select recsys._audit(%s, null, 'experiment', null, jsonb_build_object("
            "'experiment', %s::text, 'state', 'draft'), %s)",
            (model, name, hypothesis),
        )
    return get(conn, name)


@contextmanager
def _name_taken(name: str) -> Generator[None]:
    """Say so when the name of an experiment exists."""
    try:
        yield
    except pg.UniqueViolation as exc:
        raise ConfigError(
            f"there is an experiment named {name!r} already",
            hint="Choose another name: results of the old one stay readable.",
        ) from exc


def _insert(
    conn: Connection,
    row: tuple[object, ...],
    arms: Sequence[Arm],
    control: str,
    metrics: Sequence[Metric],
) -> None:
    conn.execute(
        "insert into recsys.experiment (name, model, traffic, hypothesis,"
        " primary_metric, alpha, expected_users, covariate_days)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s)",
        row,
    )
    with conn.cursor() as cur:
        cur.executemany(
            "insert into recsys.experiment_arm (experiment, arm, number, share,"
            " is_control) values (%s, %s, %s, %s, %s)",
            [(row[0], a.name, a.number, a.share, a.name == control) for a in arms],
        )
        cur.executemany(
            "insert into recsys.experiment_metric values (%s, %s, %s, %s)",
            [(row[0], m.name, m.numerator, m.denominator) for m in metrics],
        )


def _check_arms(arms: Sequence[Arm], control: str | None) -> str:
    """Return the name of the control."""
    names = [arm.name for arm in arms]
    if len(arms) < 2 or len(set(names)) != len(names):
        raise ConfigError(
            f"an experiment needs two arms or more with different names, got {names}",
            hint="Such as --arm control=1:50 --arm new=2:50.",
        )
    shares = [_hundredths(arm.share, f"the share of arm {arm.name}") for arm in arms]
    if sum(shares) != 10_000:
        raise ConfigError(
            f"the shares of the arms add up to {sum(shares) / 100:g}, not 100",
            hint="'traffic' is how many take part; shares divide those.",
        )
    if control is None:
        return "control" if "control" in names else names[0]
    if control not in names:
        raise ConfigError(
            f"no arm is named {control!r}", hint=f"Arms: {', '.join(names)}."
        )
    return control


def _hundredths(percent: float, what: str) -> int:
    try:
        exact = Decimal(str(percent)) * 100
    except InvalidOperation:
        exact = Decimal(0)
    if not exact.is_finite() or not 0 < exact <= 10_000 or exact != int(exact):
        raise ConfigError(
            f"{what} must be above 0, at most 100, with two decimals, got {percent:g}",
            hint="Such as 50 or 33.33.",
        )
    return int(exact)


def _check_numbers(
    traffic: float, alpha: float, expected_users: int, covariate_days: int
) -> None:
    _hundredths(traffic, "traffic")
    if not 0 < alpha < 0.5:
        raise ConfigError(
            f"alpha must lie between 0 and 0.5, got {alpha:g}", hint="0.05 is usual."
        )
    if not 0 < expected_users < 2**31:
        raise ConfigError(
            f"expected users must be positive, got {expected_users}",
            hint="'recsys experiment power' says how many are needed.",
        )
    if not 0 <= covariate_days <= 365:
        raise ConfigError(
            f"covariate days must lie between 0 and 365, got {covariate_days}",
            hint="0 turns CUPED off.",
        )


def start(
    conn: Connection, name: str, *, reason: str = "", force: bool = False
) -> None:
    """Assign users to the arms, from the caller's commit on.

    Every version but the base must have passed ``recsys.compare`` with the base, as for
    a promotion, and its towers must answer.

    Args:
        conn: An open connection; the caller commits.
        name: Name of the experiment.
        reason: Kept in ``recsys.audit_log``.
        force: Without the comparisons; needs a reason, and the audit says so.

    Raises:
        ConfigError: No experiment has that name, or force comes without a reason.
        VersionStateError: It has started before, another one runs on the model, or a
            version is not ready or was not compared; or a lock was not to be had for
            five seconds.
        ArtifactError: The towers of a version cannot be loaded.
    """
    model = get(conn, name).model  # begins the transaction: the next is a savepoint
    with translated(), conn.transaction():
        conn.execute(
            "select recsys._experiment_start(%s, %s, %s)", (name, reason, force)
        )
        numbers = conn.execute(
            "select distinct number from recsys.experiment_arm where experiment = %s"
            " order by number",
            (name,),
        ).fetchall()
        for (number,) in numbers:
            rollout.check_towers(conn, versions.get(conn, model, number))


def stop(conn: Connection, name: str, *, reason: str = "") -> None:
    """Serve everybody by the rollout again, from the caller's commit on.

    One that is stopped already stays as it is: ``keep_results`` may follow again.

    Raises:
        ConfigError: No experiment has that name.
        VersionStateError: It is a draft, or a lock was not to be had for five
            seconds.
    """
    get(conn, name)  # begins the caller's transaction: the next one is a savepoint
    with translated(), conn.transaction():
        conn.execute("select recsys._experiment_stop(%s, %s)", (name, reason))


def keep_results(conn: Connection, name: str) -> None:
    """Copy the results of a stopped experiment to the audit, which is not forgotten.

    Apart from ``stop``, which must be quick: this reads every impression.

    Raises:
        ConfigError: No experiment has that name.
    """
    get(conn, name)
    with translated(), conn.transaction():
        conn.execute("select recsys._experiment_keep(%s)", (name,))


def list_experiments(conn: Connection, model: str | None = None) -> list[Experiment]:
    """Return the experiments of a model or of all, newest first.

    Raises:
        UnknownModel: No model of that name is registered.
    """
    if model is not None:
        versions.list_versions(conn, model)
    with conn.cursor(row_factory=class_row(Experiment)) as cur:
        return cur.execute(
            "select * from recsys.experiment_status"
            " where model = %(model)s or %(model)s::text is null",
            {"model": model},
        ).fetchall()


def get(conn: Connection, name: str) -> Experiment:
    """Return one experiment.

    Raises:
        ConfigError: No experiment has that name.
    """
    with conn.cursor(row_factory=class_row(Experiment)) as cur:
        row = cur.execute(
            "select * from recsys.experiment_status where experiment = %s", (name,)
        ).fetchone()
    if row is None:
        raise ConfigError(
            f"unknown experiment {name!r}", hint="'recsys experiment list' lists them."
        )
    return row


def preview(conn: Connection, name: str, units: Sequence[str]) -> list[str | None]:
    """Return the arm of each unit, None for those who take no part.

    The same buckets that requests use once it runs.

    Raises:
        ConfigError: No experiment has that name.
    """
    found = get(conn, name)
    rows = conn.execute(
        "select e.salt, a.arm, a.number, a.share from recsys.experiment as e"
        " join recsys.experiment_arm as a on a.experiment = e.name"
        ' where e.name = %s order by a.arm collate "C"',
        (name,),
    ).fetchall()
    experiment = assignment.Experiment(
        name,
        rows[0][0],
        float(found.traffic),
        [Arm(arm, number, float(share)) for _, arm, number, share in rows],
    )
    arms = [experiment.arm(unit) for unit in units]
    return [arm.name if arm else None for arm in arms]
