"""What a training report says, by name: underfit, overfit, collapsed, healthy.

Plain Python over the stored report: no torch, no database.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys._certainty import FEW, doubt
from recsys._learning_config import TELLING_EPOCHS, noise
from recsys._wording import counted
from recsys.training.metrics import score_of

Row = Mapping[str, Any]
TRIED = ("dim", "tau", "dropout", "recent_beta", "companions", "encoder")
"""What a training tries by itself, as its curves name it."""

# A score that still rose by more than this at the last look was not done.
_RISING = 0.01
# The final fit has this many times the epochs that were judged: it had its time.
_LONGER = 1.3
_SAME_DIRECTION = 0.6
_FEW_DIRECTIONS = 0.1
_FEW_ITEMS = 20
_EXPLODED = 20.0
_DEAD = 0.1
_DROPPED = 0.2
FLOORS = {"most_popular": "most popular", "popular_30d": "popular in 30 days"}
"""Lists by popularity that a model must beat, and what they are called."""
LEAK = "knows the future"
"""Name of the verdict on a feature that does."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One finding.

    Attributes:
        name: Such as "healthy", "underfit", "overfit from epoch N" or "collapsed".
        good: Whether nothing is to be done.
        detail: What was seen.
        advice: What to do; empty when it is nothing.
    """

    name: str
    good: bool
    detail: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail} {self.advice}".rstrip()


def verdicts(report: Row) -> list[Verdict]:
    """Return what is wrong with a fit, the worst first, or that it is healthy.

    Args:
        report: The report of a training; one of an older release says less.
    """
    found = [
        *_leaks(report),
        *_collapsed(report),
        *_unstable(report),
        *_floor(report),
        *_few(report),
        *_fit(report),
        *_dead(report),
        *_data(report),
    ]
    if any(not verdict.good for verdict in found):
        return found
    if "full" in report and "model" in report.get("validation", {}):
        return [Verdict("healthy", True, _updated(report)), *found]
    if not chosen_looks(report):
        hint = "Users with interactions before and after the cut are needed."
        return [Verdict("not judged", False, "No user could be validated on.", hint)]
    return [Verdict("healthy", True, _steady(report)), *found]


def _steady(report: Row) -> str:
    looks = chosen_looks(report)
    score, last = max(map(score_of, looks)), looks[-1]["epoch"]
    vectors = report.get("health", {}).get("vectors")
    spread = (
        f" The item vectors fill {vectors['rank']:.0f} of {vectors['dim']:.0f}"
        " directions."
        if vectors
        else ""
    )
    before = score_of(looks[-2]) if len(looks) > 1 else 0.0
    epochs = _published(report, looks)
    rising = score_of(looks[-1]) == score > before * (1 + _RISING)
    if rising and epochs > last:
        said = f"still rose to {score:.4f} at epoch {last}; the fit went on to {epochs}"
    else:
        said = f"settled at {score:.4f} within {counted(last, 'epoch')}"
        if epochs > _LONGER * last:
            said += f", the longest fit that was judged; the published one had {epochs}"
    again = float(report.get("rerank", {}).get("temperature", 0.0))
    if again and "model" in report.get("validation", {}):
        said += f"; as served it is {score_of(report['validation']['model']):.4f}"
    return f"the validation score {said}. It is above popularity.{spread}"


def _published(report: Row, looks: Sequence[Row]) -> int:
    """Return the epochs of the published fit."""
    return int(report.get("settings", {}).get("epochs", looks[-1]["epoch"]))


def _updated(report: Row) -> str:
    """Say what one step of a full update did."""
    validation = report["validation"]
    before = validation.get("parent")
    was = f", its parent {score_of(before):.4f}" if before else ""
    return (
        f"one step from version {report['full'].get('parent')} scores"
        f" {score_of(validation['model']):.4f} on the newest interactions{was}."
    )


def judged_looks(report: Row) -> dict[int, list[Row]]:
    """Return the looks at the validation slice by the number of their fit."""
    rows: Sequence[Row] = report.get("curves", [])
    runs: dict[int, list[Row]] = {}
    for row in rows:
        if row["run"] and "recall@20" in row:
            runs.setdefault(row["run"], []).append(row)
    return runs


def chosen_looks(report: Row) -> list[Row]:
    """Return the looks at the fit that was chosen, by rising epoch.

    A short fit that won has one look: then those at the fit with the same settings
    that was looked at most, or else at any.
    """
    runs = judged_looks(report)
    if not runs:
        return []
    chosen = runs.get(report.get("chosen_run", 0), [])
    if len(chosen) < 2:
        same = [run for run in runs.values() if chosen and _alike(run[0], chosen[0])]
        longest = max(reversed(same or list(runs.values())), key=len)
        if len(longest) < 2:
            longest = max(reversed(runs.values()), key=len)
        chosen = longest if len(longest) > len(chosen) else chosen
    return sorted(chosen, key=lambda row: row["epoch"])


def _alike(one: Row, other: Row) -> bool:
    """Return whether two fits had the same settings."""
    return all(one.get(name) == other.get(name) for name in TRIED)


def _few(report: Row) -> list[Verdict]:
    """Say where the validation slice is too small to tell."""
    users = report.get("validation", {}).get("users", 0)
    left_open = doubt(users) if users else None
    if left_open is None:
        return []
    wait = f"wait for at least {FEW} users in the slice."
    # A full update is judged by the newest of its news, whatever the share says.
    advice = (
        wait.capitalize() if "full" in report else f"Raise train.validation, or {wait}"
    )
    return [Verdict("judged by few", False, f"{left_open}.", advice)]


def _fit(report: Row) -> list[Verdict]:
    """Tell overfit and underfit by the shape of the learning curve."""
    looks = chosen_looks(report)
    if len(looks) == 1:
        at = looks[0]["epoch"]
        after = counted(at, "epoch")
        detail = (
            f"there was time for one look at the validation slice, after {after}; from"
            " one point nobody can tell whether more would help."
        )
        return [Verdict("too short to judge", False, detail, _more(report, at))]
    if not looks:
        return []
    scores = [score_of(row) for row in looks]
    best = max(range(len(looks)), key=scores.__getitem__)
    epochs = _published(report, looks)
    telling = looks[-1]["epoch"] >= TELLING_EPOCHS
    if telling and scores[-1] < scores[best] * (1 - _noise(report)):
        return [_overfit(looks, scores, best, epochs)]
    gain = scores[-1] / scores[-2] - 1 if scores[-2] else 0.0
    done = epochs > _LONGER * looks[-1]["epoch"]
    if best == len(looks) - 1 and gain > _RISING and not done:
        return [_underfit(report, looks, gain)]
    return []


def _noise(report: Row) -> float:
    """Return the relative change of the validation score that says nothing."""
    return noise(report.get("validation", {}).get("users", math.inf))


def _overfit(
    looks: Sequence[Row], scores: Sequence[float], best: int, epochs: int
) -> Verdict:
    at, last = looks[best]["epoch"], looks[-1]["epoch"]
    stopped = epochs <= at * _LONGER
    detail = (
        f"the validation score fell from {scores[best]:.4f} to {scores[-1]:.4f} by"
        f" epoch {last}, while the training loss went from"
        f" {looks[best]['train_loss']:.3f} to {looks[-1]['train_loss']:.3f}."
    )
    if stopped:
        return Verdict(
            f"overfit from epoch {at}",
            True,
            f"{detail} The published fit ended in time, after {epochs}.",
        )
    return Verdict(
        f"overfit from epoch {at}",
        False,
        detail,
        f"Set train.epochs = {at}, or raise train.dropout.",
    )


def _underfit(report: Row, looks: Sequence[Row], gain: float) -> Verdict:
    at = looks[-1]["epoch"]
    detail = f"the validation score still rose by {gain:.1%} up to epoch {at}."
    return Verdict("underfit", False, detail, _more(report, at))


def _more(report: Row, at: int) -> str:
    """Say what allows more epochs."""
    limits = report.get("limits", {})
    if limits.get("epochs"):
        return f"Raise train.epochs (now {limits['epochs']})."
    if at >= limits.get("max_epochs", at + 1):
        return f"Raise train.max_epochs (now {limits['max_epochs']})."
    return f"Raise train.budget_s (now {limits.get('budget_s', 180):g})."


def best_floor(validation: Mapping[str, Any]) -> str | None:
    """Return the popularity list that is hardest to beat, None without any."""
    floors = {n: score_of(validation[n]) for n in FLOORS if n in validation}
    return max(floors, key=floors.__getitem__) if floors else None


def _floor(report: Row) -> list[Verdict]:
    validation = report.get("validation", {})
    model, name = validation.get("model"), best_floor(validation)
    if not model or name is None:
        return []
    floor = score_of(validation[name])
    if score_of(model) > floor:
        return _parent(report)
    return [
        Verdict(
            "below the floor",
            False,
            f"one list for everybody ({name}) scores {floor:.4f}, the model"
            f" {score_of(model):.4f}.",
            "Check interactions.weights and the time of the interactions, and train"
            " longer.",
        )
    ]


def _parent(report: Row) -> list[Verdict]:
    """Compare a full update with the version it started from."""
    before = report["validation"].get("parent")
    model = report["validation"]["model"]
    if not before or score_of(model) >= score_of(before) * (1 - _noise(report)):
        return []
    return [
        Verdict(
            "worse than its parent",
            False,
            f"the update scores {score_of(model):.4f}, what it started from"
            f" {score_of(before):.4f}.",
            "Train from the start: recsys train without --full.",
        )
    ]


def _leaks(report: Row) -> list[Verdict]:
    hint = "Without it, offline numbers may fall and real ones rise."
    leaks: Sequence[str] = report.get("leaks", [])
    return [Verdict(LEAK, False, f"{text.rstrip('.')}.", hint) for text in leaks]


def _collapsed(report: Row) -> list[Verdict]:
    vectors = report.get("health", {}).get("vectors")
    if not vectors:
        return []
    # A handful of items can fill no more directions than there are of them.
    items = vectors.get("items", math.inf)
    if items < _FEW_ITEMS:
        return []
    few = max(1.5, _FEW_DIRECTIONS * min(vectors["dim"], items))
    if vectors["cosine"] < _SAME_DIRECTION and vectors["rank"] >= few:
        return []
    return [
        Verdict(
            "collapsed",
            False,
            f"the item vectors point the same way: mean cosine"
            f" {vectors['cosine']:.2f}, {vectors['rank']:.1f} of"
            f" {vectors['dim']:.0f} directions used.",
            "Lower train.lr or train.tau, raise train.negatives, and look for features"
            " that are the same for all items.",
        )
    ]


def _unstable(report: Row) -> list[Verdict]:
    rows: Sequence[Row] = report.get("health", {}).get("gradients", [])
    found: list[Verdict] = []
    for group in dict.fromkeys(row["group"] for row in rows):
        norms = [float(row["gradient"]) for row in rows if row["group"] == group]
        # The first steps of a fit are large in any case.
        middle = sorted(norms)[len(norms) // 2]
        # What few steps touch, such as the query of an empty history, has a median 0.
        if len(norms) > 3 and 0 < _EXPLODED * middle < max(norms[2:]):
            found.append(
                Verdict(
                    "unstable",
                    False,
                    f"the gradient of {group} reached {max(norms[2:]):.3g}, its median"
                    f" is {middle:.3g}.",
                    "Lower train.lr.",
                )
            )
    return found[:1]


def _dead(report: Row) -> list[Verdict]:
    rows: Sequence[Row] = report.get("health", {}).get("embeddings", [])
    last = {row["table"]: row for row in rows}
    return [
        Verdict(
            "dead rows",
            False,
            f"{row['dead']:.0%} of the {table} rows have next to no length.",
            "Items of very few users learn nothing by their id: declare item features.",
        )
        for table, row in last.items()
        if row["dead"] > _DEAD
    ]


def _data(report: Row) -> list[Verdict]:
    data = report.get("data", {})
    dropped, kept = data.get("dropped", 0), data.get("interactions", 0)
    if dropped <= _DROPPED * (dropped + kept):
        return []
    return [
        Verdict(
            "data left out",
            False,
            f"{dropped:,} of {dropped + kept:,} interactions name no item of items.sql"
            " or have no ids.",
            "Compare items.sql with the item_id of interactions.sql.",
        )
    ]
