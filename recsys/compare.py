"""The gate: two versions answer the same users, and later interactions judge them.

Both are asked in one snapshot, in turns, through the served path: state function, ONNX
query tower, index at its calibrated ef_search. Histories end at the cut-off, hits begin
there, and no version was trained on anything after it.

While a version is still loading, both are restricted to the items that it has: their
histories by a join with its history rows, their candidates by an exact scan of the
vectors joined with its vectors. Such a comparison is limited and passes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from psycopg.pq import TransactionStatus

from recsys import _gate, _measure, _pair, _served, _strangers
from recsys._db import Connection
from recsys._gate import Gate
from recsys._holdout import Holdout
from recsys._lists import Paired
from recsys._measure import Found
from recsys._pair import Pair
from recsys.errors import ConfigError
from recsys.progress import SILENT, Progress
from recsys.training.metrics import HIT_DEPTH
from recsys.types import ItemId, UserId

__all__ = ["Comparison", "Example", "Gate", "Paired", "compare", "store"]

MAX_USERS = 2_000
_EXAMPLES = 10
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Example:
    """One user's lists side by side.

    Attributes:
        had: What the user liked last before the cut-off, newest first.
        took: What counts as a hit.
        base: First ten items of the base's list.
        candidate: First ten items of the candidate's.
    """

    user: UserId
    had: tuple[ItemId, ...]
    took: tuple[ItemId, ...]
    base: tuple[ItemId, ...]
    candidate: tuple[ItemId, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two versions answered to the same users.

    Attributes:
        number: The candidate.
        base_number: What it was compared with; None: the popularity floor.
        cutoff: Histories end and hits begin here; None: hits came from a file.
        users: Users that were asked.
        hits: Pairs of these users that count.
        sample_percent: Share of the source's items that both could show.
        limited: Measured before the candidate was ready.
        passed: It may be promoted.
        verdict: Why, in words.
        metrics: Values of both by name, with 95 % intervals.
        gate: Thresholds of the verdict, and the seed, by name.
        standard: They are at least as strict as the defaults, and the seed is the
            default; ``promote`` accepts no other comparison without force.
        examples: Lists of up to ten of the users.
    """

    model: str
    number: int
    base_number: int | None
    cutoff: datetime | None
    users: int
    hits: int
    k: int
    sample_percent: float
    limited: bool
    passed: bool
    verdict: str
    metrics: Mapping[str, Paired]
    gate: Mapping[str, float] = field(default_factory=dict[str, float])
    standard: bool = False
    examples: tuple[Example, ...] = field(default=(), compare=False)


def compare(
    conn: Connection,
    model: str,
    number: int,
    base: int | None = None,
    *,
    cutoff: datetime | None = None,
    holdout: Holdout | None = None,
    k: int = 20,
    max_users: int = MAX_USERS,
    seed: int = 0,
    gate: Gate | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Compare a version with another one on the same users.

    Args:
        conn: An open connection. Outside a transaction everything is read in one
            snapshot of its own; inside, in the caller's transaction.
        model: Name of the model.
        number: The candidate: ready or serving, or building with some items loaded.
        base: What to compare with; default the serving version, and when none serves
            the better of the popularity floors.
        cutoff: Hits begin and histories end here; default the end of the training data
            of whichever version saw more. Without a zone it is UTC.
        holdout: Hits from elsewhere, instead of later interactions.
        k: List length, 1 to 1000.
        max_users: A larger holdout is sampled: the same users for the same seed.
        seed: Of the sample and of the resampling.
        gate: Thresholds of the verdict.
        progress: Receives the progress.

    Returns:
        Metrics, differences with intervals, and the verdict; nothing is stored.

    Raises:
        ConfigError: An argument is out of range, or the cut-off is before the end of
            a version's training data.
        SourceError: No user has anything later, or a source fails.
        UnknownModel: No model of that name is registered.
        UnknownVersion: The model has no such version.
        VersionStateError: A version failed, is retired or has nothing loaded, or the
            base is not ready.
    """
    _check(k, max_users, cutoff, holdout)
    gate = gate or Gate()
    if cutoff is not None and cutoff.tzinfo is None:
        cutoff = cutoff.replace(tzinfo=UTC)
    with _one_snapshot(conn):
        pair = _pair.find(conn, model, number, base)
        told = _measured(conn, pair, cutoff, holdout, k, max_users, seed, progress)
    found = told.found
    passed, verdict = _gate.judge(
        gate,
        _gate.Facts(
            number=number,
            base=found.base,
            users=told.users,
            population=told.population,
            metrics=found.metrics,
            quality=f"ndcg@{k}",
            recall_target=pair.candidate.config.index.recall_target,
            ann_high=found.ann_high,
            limited=pair.limit,
            unknown=told.unknown,
            from_file=holdout is not None,
        ),
    )
    return Comparison(
        model=model,
        number=number,
        base_number=pair.base.number if pair.base else None,
        cutoff=told.before,
        users=told.users,
        hits=told.hits,
        k=k,
        sample_percent=pair.sample_percent,
        limited=pair.limit is not None,
        passed=passed,
        verdict=verdict,
        metrics=found.metrics,
        gate={**asdict(gate), "seed": seed},
        # Of many seeds one asks the users that suit the candidate.
        standard=not gate.weaker and (seed == 0 or told.users == told.population),
        examples=told.examples,
    )


def _check(
    k: int, max_users: int, cutoff: datetime | None, holdout: Holdout | None
) -> None:
    if not 1 <= k <= 1000:
        raise ConfigError(f"k must be from 1 to 1000, got {k}")
    if max_users < 1:
        raise ConfigError(f"the number of users must be positive, got {max_users}")
    if cutoff is not None and holdout is not None:
        raise ConfigError("pass either a cut-off or a holdout")


@dataclass(frozen=True, slots=True)
class _Measured:
    """What both answered.

    Attributes:
        found: The metrics, and the lists.
        users: Users that were asked.
        population: Users that could have been.
        hits: Pairs of those asked that count.
        before: Histories end and hits begin here.
        unknown: Versions of which it is not known what they were trained on.
        examples: Lists of some.
    """

    found: Found
    users: int
    population: int
    hits: int
    before: datetime | None
    unknown: tuple[int, ...]
    examples: tuple[Example, ...]


def _measured(
    conn: Connection,
    pair: Pair,
    cutoff: datetime | None,
    holdout: Holdout | None,
    k: int,
    max_users: int,
    seed: int,
    progress: Progress,
) -> _Measured:
    """Ask both versions in the caller's snapshot."""
    unknown: tuple[int, ...] = ()
    if holdout is None:
        unknown, holdout = _pair.untold(conn, pair), _pair.later(conn, pair, cutoff)
    elif any(holdout.relevant.values()):
        _strangers.known_items(conn, pair.both, holdout.relevant)
    relevant = {user: took for user, took in holdout.relevant.items() if took}
    users = _pair.sample(relevant, max_users, seed)
    if not users:
        raise _pair.nothing(holdout.before)
    wanted = [relevant[user] for user in users]
    asked = _measure.ask(conn, pair, users, holdout.before, max(k, HIT_DEPTH), progress)
    found = _measure.measure(
        conn, pair, asked, wanted, holdout.before, k=k, seed=seed, progress=progress
    )
    return _Measured(
        found=found,
        users=len(users),
        population=len(relevant),
        hits=sum(map(len, wanted)),
        before=holdout.before,
        unknown=unknown,
        examples=_examples(conn, pair, users, wanted, holdout.before, found),
    )


def store(conn: Connection, comparison: Comparison) -> int:
    """Keep a comparison, where ``promote`` and recsys.version_comparison see it.

    Returns:
        Its id.
    """
    values = asdict(replace(comparison, examples=()))
    values.pop("examples")
    values["metrics"] = json.dumps(values["metrics"])
    values["gate"] = json.dumps(values["gate"])
    row = conn.execute(
        "insert into recsys.comparison (model, number, base_number, cutoff, users,"
        " hits, k, sample_percent, limited, passed, verdict, metrics, gate,"
        " standard) values"
        " (%(model)s, %(number)s, %(base_number)s, %(cutoff)s, %(users)s, %(hits)s,"
        " %(k)s, %(sample_percent)s, %(limited)s, %(passed)s, %(verdict)s,"
        " %(metrics)s::jsonb, %(gate)s::jsonb, %(standard)s) returning id",
        values,
    ).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def _one_snapshot(conn: Connection) -> Generator[None]:
    """Read everything as of one moment, unless the caller's transaction is open."""
    own = conn.info.transaction_status == TransactionStatus.IDLE
    with conn.transaction():
        if own:
            conn.execute("set transaction isolation level repeatable read, read only")
        yield


def _examples(
    conn: Connection,
    pair: Pair,
    users: Sequence[UserId],
    relevant: Sequence[Collection[ItemId]],
    before: datetime | None,
    found: Found,
) -> tuple[Example, ...]:
    base, candidate = found.lists
    return tuple(
        Example(
            user=user,
            had=tuple(_served.newest_items(conn, pair.candidate, user, before, _SHOWN)),
            took=tuple(sorted(relevant[i], key=str)),
            base=tuple(base[i][:_SHOWN]),
            candidate=tuple(candidate[i][:_SHOWN]),
        )
        for i, user in enumerate(users[:_EXAMPLES])
    )
