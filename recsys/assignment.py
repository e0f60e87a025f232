"""Which version answers which user: salted buckets, the same in SQL and in Python."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BUCKETS = 10_000
"""Buckets: a hundredth of a percent is the finest share."""


def bucket(salt: str, unit: str) -> int:
    """Return the bucket of a unit, 0 to 9999.

    Args:
        salt: Of the rollout or the experiment; another salt shuffles everybody anew.
        unit: A user id as text, or the key of an anonymous session.

    Source:
        sql/functions/_bucket.v1.sql
    """
    digest = hashlib.sha256(f"{salt}:{unit}".encode()).digest()
    return (int.from_bytes(digest[:4], "big") * BUCKETS) >> 32


def _buckets(percent: float) -> int:
    """Return how many buckets a share has: 0.07 * 100 is not 7 in floating point."""
    return round(percent * 100)


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of an experiment.

    Attributes:
        name: Name of the arm.
        number: The version that answers it; None leaves that to the rollout.
        share: Percent of the experiment's units.
    """

    name: str
    number: int | None
    share: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """A running experiment.

    Attributes:
        name: Name of the experiment.
        salt: Salt of its buckets; traffic has one of its own made of it.
        traffic: Percent of all units that take part.
        arms: In order of their names.
    """

    name: str
    salt: str
    traffic: float
    arms: Sequence[Arm]

    def arm(self, unit: str) -> Arm | None:
        """Return the arm of a unit, None when it takes no part."""
        if bucket(f"{self.salt}:traffic", unit) >= _buckets(self.traffic):
            return None
        place, upper = bucket(self.salt, unit), 0
        for arm in self.arms:
            upper += _buckets(arm.share)
            if place < upper:
                return arm
        return None


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who answers one unit, and for which experiment.

    Attributes:
        number: The version.
        experiment: Name of the experiment the unit takes part in, or None.
        arm: Name of its arm, or None.
    """

    number: int
    experiment: str | None = None
    arm: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How the users of a model are assigned to versions, at one generation.

    Attributes:
        generation: Of the model; every change of the rest comes with a new one.
        base: The version that answers whom nobody else answers; None: nothing serves.
        candidate: The version that is being rolled out, or None.
        percent: Share of the users whom the candidate answers.
        salt: Salt of the rollout's buckets.
        experiment: The running experiment, or None.
    """

    generation: int
    base: int | None
    candidate: int | None = None
    percent: float = 0.0
    salt: str = ""
    experiment: Experiment | None = field(default=None)

    @property
    def numbers(self) -> set[int]:
        """Every version that may answer."""
        arms = self.experiment.arms if self.experiment else ()
        numbers = {self.base, self.candidate, *(arm.number for arm in arms)}
        return {number for number in numbers if number is not None}

    def assign(self, unit: str | None) -> Assignment | None:
        """Return who answers a unit; None when nothing serves.

        A unit keeps its version while a candidate's percent grows, and without a unit
        the base answers.

        Source:
            sql/functions/_assign.v1.sql
        """
        experiment = self.experiment
        arm = experiment.arm(unit) if experiment and unit is not None else None
        number = arm.number if arm else None
        if number is None:
            number = self._rolled_out(unit)
        if number is None:
            return None
        if experiment and arm:
            return Assignment(number, experiment.name, arm.name)
        return Assignment(number)

    def _rolled_out(self, unit: str | None) -> int | None:
        if self.candidate is None or unit is None:
            return self.base
        if bucket(self.salt, unit) < _buckets(self.percent):
            return self.candidate
        return self.base


def experiment_from_json(data: Mapping[str, Any] | None) -> Experiment | None:
    """Return the experiment as recsys._plan() describes it."""
    if data is None:
        return None
    arms = [Arm(a["arm"], a["number"], float(a["share"])) for a in data["arms"] or ()]
    return Experiment(data["name"], data["salt"], float(data["traffic"]), arms)
