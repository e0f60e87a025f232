"""What a report says of a fit, on reports made up to be so."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from recsys._certainty import doubt
from recsys.report.verdict import verdicts

HEALTHY: dict[str, Any] = {
    "settings": {"epochs": 60},
    "limits": {"epochs": 0, "max_epochs": 70, "budget_s": 180.0},
    "curves": [
        {"run": 2, "epoch": epoch, "train_loss": 3 - epoch / 60, "recall@20": score,
         "ndcg@20": score}
        for epoch, score in ((10, 0.10), (20, 0.14), (30, 0.15), (40, 0.1501))
    ],
    "validation": {
        "model": {"recall@20": 0.15, "ndcg@20": 0.15},
        "most_popular": {"recall@20": 0.05, "ndcg@20": 0.05},
    },
    "health": {
        "vectors": {"cosine": 0.05, "rank": 40.0, "dim": 64.0},
        "gradients": [{"group": "served", "gradient": 0.1} for _ in range(6)],
        "embeddings": [{"table": "served", "dead": 0.0}],
    },
    "data": {"interactions": 1000, "dropped": 3},
}  # fmt: skip


def names(report: dict[str, Any]) -> list[str]:
    return [verdict.name for verdict in verdicts(report)]


def but(**changes: Any) -> dict[str, Any]:
    report = copy.deepcopy(HEALTHY)
    for path, value in changes.items():
        part = report
        *parents, last = path.split("__")
        for key in parents:
            part = part[key]
        part[last] = value
    return report


def scores(*values: float) -> list[dict[str, Any]]:
    return [
        {"run": 1, "epoch": 10 * (i + 1), "train_loss": 3 - i / 10,
         "recall@20": v, "ndcg@20": v}
        for i, v in enumerate(values)
    ]  # fmt: skip


@pytest.mark.parametrize(("users", "off"), [(1, "1.00"), (4, "0.50"), (99, "0.10")])
def test_a_slice_of_few_users_is_named_with_what_it_leaves_open(
    users: int, off: str
) -> None:
    found = verdicts(but(validation__users=users))

    assert [verdict.name for verdict in found] == ["judged by few"]
    assert f"each metric may lie {off} off" in found[0].detail
    assert "train.validation" in found[0].advice
    assert names(but(validation__users=100)) == ["healthy"]


def test_a_metric_of_few_users_is_as_far_off_as_is_said() -> None:
    """The worst case: each user a hit or none, with even chances."""
    rng = np.random.default_rng(0)
    users = 25
    off = np.abs(rng.integers(0, 2, (20_000, users)).mean(1) - 0.5)

    said = doubt(users)

    assert said is not None
    bound = float(said.removesuffix(" off").rsplit(" ", 1)[1])
    assert bound == pytest.approx(2 * 0.5 / users**0.5)
    assert 0.9 < (off <= bound).mean() < 0.99  # two standard errors


def test_a_healthy_fit_is_called_so() -> None:
    assert names(HEALTHY) == ["healthy"]
    assert "settled at 0.3002 within 40 epochs" in str(verdicts(HEALTHY)[0])


def test_a_falling_score_is_overfit_from_its_best_epoch() -> None:
    report = but(curves=scores(0.1, 0.15, 0.14, 0.13))

    (found,) = verdicts(report)

    assert found.name == "overfit from epoch 20"
    assert "train.epochs = 20" in found.advice


def test_a_fit_that_stopped_in_time_is_healthy_and_says_when_it_turns() -> None:
    report = but(curves=scores(0.1, 0.15, 0.14, 0.13), settings__epochs=20)

    assert names(report) == ["healthy", "overfit from epoch 20"]


def test_a_short_fit_that_won_is_judged_by_the_longer_one_with_its_settings() -> None:
    """Not by that of an encoder which was tried later and looked at more often."""
    mean, decay = {"tau": 0.1, "encoder": "mean"}, {"tau": 0.1, "encoder": "decay"}
    curves = [
        {**scores(0.2)[0], "run": 1, **mean},
        *({**row, "run": 2, **mean} for row in scores(0.1, 0.12, 0.18)),
        *({**row, "run": 3, **decay} for row in scores(0.1, 0.15, 0.15, 0.15)),
    ]

    (found,) = verdicts(but(curves=curves, chosen_run=1, settings__epochs=30))

    assert found.name == "underfit"


def test_of_fits_with_one_look_the_chosen_one_is_named() -> None:
    curves = [
        {**scores(0.2)[0], "run": 1, "tau": 0.1, "epoch": 4},
        {**scores(0.1)[0], "run": 2, "tau": 0.1, "epoch": 1},
    ]

    (found,) = verdicts(but(curves=curves, chosen_run=1))

    assert "after 4 epochs" in found.detail


def test_a_rising_score_is_underfit() -> None:
    report = but(curves=scores(0.1, 0.12, 0.15), settings__epochs=30)

    (found,) = verdicts(report)

    assert found.name == "underfit"
    assert "train.budget_s (now 180)" in found.advice
    assert (
        "train.epochs (now 30)"
        in verdicts({**report, "limits": {"epochs": 30}})[0].advice
    )


def test_a_final_fit_that_went_on_is_not_underfit() -> None:
    [found] = verdicts(but(curves=scores(0.1, 0.12, 0.15)))

    assert found.name == "healthy"
    assert "still rose to 0.3000 at epoch 30; the fit went on to 60" in found.detail
    dipped = verdicts(but(curves=scores(0.30, 0.29, 0.2995)))[0].detail
    assert "settled at 0.6000 within 30 epochs" in dipped


def test_two_epochs_cannot_overfit() -> None:
    looks = [{**row, "epoch": n} for n, row in enumerate(scores(0.15, 0.14), 1)]

    assert names(but(curves=looks)) == ["healthy"]
    assert names(but(curves=scores(0.15, 0.14))) == ["overfit from epoch 10"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"health__vectors": {"cosine": 0.9, "rank": 3.0, "dim": 64.0}}, "collapsed"),
        ({"health__vectors": {"cosine": 0.0, "rank": 2.0, "dim": 64.0}}, "collapsed"),
        ({"validation__most_popular": {"recall@20": 0.2, "ndcg@20": 0.2}},
         "below the floor"),
        ({"health__embeddings": [{"table": "served", "dead": 0.5}]}, "dead rows"),
        ({"data": {"interactions": 10, "dropped": 90}}, "data left out"),
        ({"health__gradients": [{"group": "served", "gradient": g}
                                for g in (9, 9, 0.1, 0.1, 50, 0.1, 0.1, 0.1)]},
         "unstable"),
        ({"curves": []}, "not judged"),
        ({"leaks": ["sold counts later sales."]}, "knows the future"),
        ({"curves": scores(0.1)}, "too short to judge"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_called_by_name(changes: dict[str, Any], name: str) -> None:
    found = verdicts(but(**changes))

    assert [verdict.name for verdict in found] == [name]
    assert found[0].advice


def test_a_report_of_an_older_release_says_what_it_can() -> None:
    assert names({}) == ["not judged"]
    assert names({"curves": HEALTHY["curves"]}) == ["healthy"]


def test_a_full_update_is_compared_with_its_parent() -> None:
    report = {**HEALTHY, "curves": [], "full": {"parent": 3}}
    worse = {**report["validation"], "parent": {"recall@20": 0.2, "ndcg@20": 0.2}}

    assert names(report) == ["healthy"]
    assert "from version 3" in str(verdicts(report)[0])
    assert names({**report, "validation": worse}) == ["worse than its parent"]
