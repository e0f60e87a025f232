"""Whether a comparison lets a version be promoted, and why, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from recsys._lists import Paired
from recsys.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Gate:
    """What a candidate must not fall below.

    Attributes:
        max_drop: Largest relative loss of NDCG@k, as a share of the base's.
        min_coverage: Smallest catalogue coverage, as a share of the base's.
        max_latency: Largest p99 latency, as a multiple of the base's.
        latency_slack_ms: Differences of p99 up to this are noise.
        min_users: Fewer users say too little.

    Raises:
        ConfigError: A threshold is not finite or out of its range.
    """

    max_drop: float = 0.05
    min_coverage: float = 0.5
    max_latency: float = 1.5
    latency_slack_ms: float = 2.0
    min_users: int = 30

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            # Written so that nan, which every comparison lets through, is refused.
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(
                    f"the threshold {name} must be from {low:g} to {high:g}, got "
                    f"{value:g}",
                    hint=f"The default is {_DEFAULTS[name]:g}.",
                )

    @property
    def weaker(self) -> tuple[str, ...]:
        """Names of the thresholds that let more pass than the defaults do."""
        return tuple(
            name
            for name in _RANGES
            if (getattr(self, name) - _DEFAULTS[name])
            * (-1 if name.startswith("min_") else 1)
            > 0
        )

    @property
    def told(self) -> str:
        """The thresholds that are not the defaults, in words."""
        return ", ".join(
            f"{name} {getattr(self, name):g} instead of {_DEFAULTS[name]:g}"
            for name in _RANGES
            if getattr(self, name) != _DEFAULTS[name]
        )


_RANGES = {
    "max_drop": (0.0, 1.0),
    "min_coverage": (0.0, 1.0),
    "max_latency": (1.0, 1000.0),
    "latency_slack_ms": (0.0, 60_000.0),
    "min_users": (1, 1_000_000_000),
}
_DEFAULTS: dict[str, float] = asdict(Gate())


@dataclass(frozen=True, slots=True)
class Facts:
    """What a verdict is about.

    Attributes:
        number: The candidate.
        base: What it is compared with, in words.
        users: Users that were asked.
        population: Users that could have been.
        metrics: The metrics, by name.
        quality: Name of the metric that decides.
        recall_target: ANN recall that the candidate's index promises.
        ann_high: Upper end of the 95 % interval of its ANN recall on these users.
        limited: Why the data are limited, in words; None when they are not.
        unknown: Versions of which it is not known what they were trained on.
        from_file: The hits came from a file.
    """

    number: int
    base: str
    users: int
    population: int
    metrics: Mapping[str, Paired]
    quality: str
    recall_target: float
    ann_high: float | None
    limited: str | None
    unknown: tuple[int, ...] = ()
    from_file: bool = False


def judge(gate: Gate, facts: Facts) -> tuple[bool, str]:
    """Return whether the candidate passes, and a verdict in words."""
    reasons = [*_quality(gate, facts), *_coverage(gate, facts)]
    reasons += [*_index(facts), *_latency(gate, facts)]
    told = f"{_change(facts)} on {_users(facts)} against {facts.base}"
    if facts.unknown:
        numbers = " and ".join(map(str, facts.unknown))
        told += f"; what version {numbers} was trained on is unknown"
    if facts.from_file:
        told += (
            "; the hits are from a file: whether the versions were trained on them is"
            " not checked"
        )
    if gate.told:
        told += f"; with {gate.told}"
    if facts.limited is not None:
        more = f"; so far {'; '.join(reasons)}" if reasons else ""
        return False, (
            f"limited data: {facts.limited}; {told}{more}; compare again when version"
            f" {facts.number} is ready"
        )
    if facts.users < gate.min_users:
        return False, (f"too little data: {gate.min_users} users are needed; {told}")
    if reasons:
        return False, f"failed: {'; '.join(reasons)}; {told}"
    return True, f"passed: {told}"


def _change(facts: Facts) -> str:
    found = facts.metrics[facts.quality]
    return f"{facts.quality} {found.base or 0:.4f} -> {found.candidate or 0:.4f}"


def _users(facts: Facts) -> str:
    users = f"{facts.users:,} user{'' if facts.users == 1 else 's'}"
    if facts.users == facts.population:
        return users
    return f"{users} (a sample of {facts.population:,})"


def _quality(gate: Gate, facts: Facts) -> list[str]:
    found = facts.metrics[facts.quality]
    base, difference = found.base or 0.0, found.difference or 0.0
    if base == 0 and not found.candidate:
        return [f"{facts.quality} of both is 0, which says nothing about either"]
    if base > 0 and -difference > gate.max_drop * base:
        return [
            f"{facts.quality} fell by {-difference / base:.1%}, more than"
            f" {gate.max_drop:.1%}"
        ]
    if found.high is not None and found.high < 0:
        return [f"{facts.quality} fell for certain, by {-found.high:.4f} or more"]
    return []


def _coverage(gate: Gate, facts: Facts) -> list[str]:
    found = facts.metrics.get("coverage")
    if found is None or not found.base or found.candidate is None:
        return []
    if found.candidate >= gate.min_coverage * found.base:
        return []
    return [
        f"coverage is {found.candidate:.1%} of the items, less than"
        f" {gate.min_coverage:g} times the {found.base:.1%} of the base"
    ]


def _index(facts: Facts) -> list[str]:
    calibrated = facts.metrics.get("ann_recall")
    value = None if calibrated is None else calibrated.candidate
    # The calibrated value is a real of Postgres.
    if value is not None and value < facts.recall_target - 1e-6:
        return [
            f"ANN recall is {value:.3f}, the target of the index is"
            f" {facts.recall_target:g}"
        ]
    if facts.ann_high is not None and facts.ann_high < facts.recall_target:
        return [
            f"ANN recall on these users is at most {facts.ann_high:.3f}, the target of"
            f" the index is {facts.recall_target:g}"
        ]
    return []


def _latency(gate: Gate, facts: Facts) -> list[str]:
    found = facts.metrics.get("latency_p99_ms")
    if found is None or found.base is None or found.candidate is None:
        return []
    certain = found.low is None or found.low > 0
    slower = found.candidate > gate.max_latency * found.base
    if slower and certain and found.candidate - found.base > gate.latency_slack_ms:
        return [
            f"p99 latency is {found.candidate:.1f} ms, more than {gate.max_latency:g}"
            f" times the {found.base:.1f} ms of the base"
        ]
    return []
