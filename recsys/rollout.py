"""Who is served by what: promote, ramp, roll back, retire, drop.

Every function runs in the caller's transaction and takes effect at its commit, for the
first request that starts after it, in every process. The rules are in SQL
(sql/functions/_promote.v2.sql), so that no road goes around them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from itertools import pairwise

import numpy as np
import psycopg
from psycopg import errors as pg

from recsys import _sql, artifacts, versions
from recsys._db import Connection, translated
from recsys._tower import ItemTower, QueryTower
from recsys.errors import ArtifactError, ConfigError, VersionStateError

_LOCK_TIMEOUT = versions.LOCK_TIMEOUT


def promote(
    conn: Connection,
    model: str,
    number: int | None,
    *,
    percent: float | str | Decimal = 100,
    reason: str = "",
    force: bool = False,
) -> int | None:
    """Let a version answer a share of the users from this commit on.

    Below 100 percent the version is the candidate, and the base answers the rest. Its
    users stay with it while the share grows. Every version but the first must have
    passed ``recsys.compare`` with the base.

    Args:
        conn: An open connection; the caller commits.
        model: Name of the model.
        number: A ready version; None stops serving.
        percent: Share of the users, above 0 to 100, at most two decimals.
        reason: Kept in ``recsys.switch_log`` and ``recsys.audit_log``.
        force: Without a passed comparison; needs a reason, and the audit says so.

    Returns:
        The base before, or None.

    Raises:
        UnknownModel: No model of that name is registered.
        UnknownVersion: The model has no such version.
        VersionStateError: The version is not ready, was not compared, or another one
            is being rolled out.
        ArtifactError: Its towers cannot be loaded.
        ConfigError: The percentage is out of range, or force comes without a reason.
    """
    share = check_percent(percent)
    if number is None and share != 100:
        raise ConfigError(
            "stopping to serve is for everybody",
            hint="Leave out the percentage, or name the version that takes the share.",
        )
    if force and not reason.strip():
        raise ConfigError(
            "a forced promotion needs a reason",
            hint="--reason '...': whoever reads the audit wants to know why.",
        )
    if number is not None:
        check_towers(conn, versions.get(conn, model, number))
    else:
        versions.list_versions(conn, model)
    with locking(conn, model):
        row = conn.execute(
            "select recsys._promote(%s, %s, %s, %s, 'promote', %s)",
            (model, number, share, reason, force),
        ).fetchone()
    return row[0] if row else None


def check_percent(percent: float | str | Decimal) -> Decimal:
    """Return a percentage as the database keeps it.

    Raises:
        ConfigError: It is no number above 0 up to 100 with at most two decimals.
    """
    try:
        share = Decimal(str(percent))
        fits = share.is_finite() and 0 < share <= 100 and share == round(share, 2)
    except InvalidOperation:
        share, fits = Decimal(0), False
    if not fits:
        raise ConfigError(
            f"percent must be above 0 and up to 100, with at most two decimals, got "
            f"{percent}",
            hint="'recsys rollback MODEL' takes the users back from a candidate.",
        )
    return share


def run_towers(conn: Connection, version: versions.ModelVersion) -> None:
    """Load both towers as requests and the backfill do, and ask each once.

    Raises:
        ArtifactError: One is missing, damaged or does not fit the version.
    """
    config, dim = version.config, version.config.train.dim
    query = QueryTower.of(artifacts.get(conn, version.artifacts["query_tower"]), config)
    query.encode_one(np.empty((0, dim), np.float32), np.empty(0, np.float32))
    item = ItemTower(
        artifacts.get(conn, version.artifacts["item_tower"]),
        config.items.features,
        dim,
    )
    nothing = np.zeros((1, dim), np.float32)
    missing = {feature.name: [None] for feature in config.items.features}
    item.encode(missing, 1, nothing, nothing, np.full(1, np.nan, np.float32))


def check_towers(conn: Connection, version: versions.ModelVersion) -> None:
    """Load both towers and ask each once, before anybody is served by them.

    Raises:
        ArtifactError: One is missing, damaged or does not fit the version.
    """
    if version.state not in ("ready", "serving"):
        return  # the state's own error says more
    try:
        run_towers(conn, version)
    except ArtifactError as exc:
        raise ArtifactError(
            f"the towers of version {version.number} of model {version.model!r} do not "
            f"load: {exc}",
            hint="Bring its artifacts ('recsys artifacts import'), or train again.",
        ) from exc


def ramp(
    conn: Connection,
    model: str,
    number: int,
    steps: Sequence[float | str | Decimal],
    every: timedelta,
    *,
    reason: str = "",
    force: bool = False,
    guarded: bool = True,
) -> None:
    """Begin a rollout that raises its percentage by itself.

    The first step is taken now; ``recsys worker`` takes the others, each after every
    guardrail of ``recsys.guardrails`` has seen enough answers and holds.

    Args:
        conn: An open connection; the caller commits.
        model: Name of the model.
        number: A ready version, not the one that serves.
        steps: Percentages, ascending.
        every: Time between two steps.
        reason: Kept in the logs.
        force: As for ``promote``.
        guarded: Wait for enough answers; otherwise time alone decides, and only a
            breach ends the ramp.

    Raises:
        ConfigError: The steps do not ascend, or ``every`` is not positive.
        VersionStateError: As for ``promote``, or nothing serves beside the version.
    """
    shares = [check_percent(step) for step in steps]
    if not shares or any(a >= b for a, b in pairwise(shares)):
        raise ConfigError(
            f"the steps of a ramp must ascend, got {', '.join(map(str, steps)) or '-'}",
            hint="Such as --ramp 1,5,25,50,100",
        )
    if every <= timedelta(0):
        raise ConfigError("the time between two steps must be positive")
    base = versions.serving_number(conn, model)
    if base is None or base == number:
        raise VersionStateError(
            f"no other version of model {model!r} serves, so there is nothing to ramp "
            f"version {number} against",
            hint=f"Promote it to everybody: recsys promote {model} {number}",
        )
    with locking(conn, model):
        promote(conn, model, number, percent=shares[0], reason=reason, force=force)
        if len(shares) == 1 or shares[0] == 100:
            return
        conn.execute(
            "insert into recsys.ramp"
            " (model, number, steps, every, next_at, reason, guarded)"
            " values (%s, %s, %s, %s, now() + %s, %s, %s)",
            (model, number, shares, every, every, reason, guarded),
        )
        conn.execute(
            "select recsys._audit(model, number, 'ramp', null, to_jsonb(r), reason)"
            " from recsys.ramp as r where model = %s",
            (model,),
        )


def rollback(conn: Connection, model: str, *, reason: str = "rollback") -> int:
    """Take the users back, in one commit.

    From a candidate they go back to the base; with no candidate, to the version that
    served before. Twice goes back two steps: a rollback is not itself gone back to.

    Returns:
        The number that serves everybody now.

    Raises:
        UnknownModel: No model of that name is registered.
        VersionStateError: Nothing serves, or nothing served before.
    """
    versions.list_versions(conn, model)
    with locking(conn, model):
        row = conn.execute(
            "select recsys._rollback(%s, %s)", (model, reason)
        ).fetchone()
    assert row is not None
    return int(row[0])


def retire(conn: Connection, model: str, number: int, *, reason: str = "") -> None:
    """Stop keeping a version up to date; its tables stay until it is dropped.

    Raises:
        UnknownVersion: The model has no such version.
        VersionStateError: It serves, or a running experiment assigns users to it.
    """
    versions.get(conn, model, number)
    with locking(conn, model):
        conn.execute("select recsys._retire(%s, %s, %s)", (model, number, reason))


def hand_over(
    conn: Connection, model: str, number: int, *, stop_serving: bool = False
) -> int | None:
    """Let another version take over if this one serves, as before a drop.

    Commit it before ``drop``, so that requests never wait for the removal of tables.

    Returns:
        The base now, None when nothing serves.

    Raises:
        VersionStateError: It serves and no earlier version can take over, a running
            experiment assigns users to it, or another transaction holds a lock for
            longer than five seconds.
    """
    versions.get(conn, model, number)
    with locking(conn, model):
        conn.execute("select recsys._check_unused(%s, %s)", (model, number))
        conn.execute(
            "select recsys._hand_over(%s, %s, %s)", (model, number, stop_serving)
        )
    return versions.serving_number(conn, model)


def drop(
    conn: Connection, model: str, number: int, *, stop_serving: bool = False
) -> None:
    """Remove a version; one that serves hands over in the same transaction.

    Until the caller commits, requests of the version wait: ``hand_over`` and commit
    before.

    Raises:
        VersionStateError: As for ``hand_over``.
    """
    config = versions.get(conn, model, number).config
    with locking(conn, model):
        for statement in versions.drop_statements(
            model,
            number,
            item_id=config.item_id,
            user_id=config.user_id,
            stop_serving=stop_serving,
        ):
            conn.execute(_sql.trusted(statement))


@contextmanager
def locking(conn: Connection, model: str) -> Generator[None]:
    """Wait for locks a few seconds only, and say whom to blame.

    The caller's own lock_timeout is back afterwards.
    """
    with conn.transaction():
        before = conn.execute("select current_setting('lock_timeout')").fetchone()
        conn.execute("select set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
        try:
            with translated():
                yield
        except VersionStateError as exc:
            if not isinstance(exc.__cause__, pg.LockNotAvailable):
                raise
            raise VersionStateError(
                f"model {model!r} is locked by another transaction",
                hint="Try again; the transaction that uses the model must end first.",
            ) from exc.__cause__
        except psycopg.errors.DeadlockDetected as exc:
            raise VersionStateError(
                f"model {model!r} is locked by another transaction",
                hint="Try again; the other transaction came first.",
            ) from exc
        conn.execute("select set_config('lock_timeout', %s, true)", before or ("0",))
