"""The search of ``recsys tune``: optuna proposes, the validation slice judges.

Every trial is a fit of the same number of epochs on the training part, looked at a few
times; a trial whose learning curve lies below the median of the others at the same
epoch is ended. The first trial has today's settings, so that every gain is one over
them. The study is a journal file: it survives a crash, and several processes may work
on it at once.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from recsys.config import ModelConfig, TrainConfig
from recsys.errors import TrainingError
from recsys.progress import Progress
from recsys.training import study as studies
from recsys.training.dataset import Dataset
from recsys.training.gap import warn_of_gap
from recsys.training.loop import LEAST_BATCH, STEPS_PER_EPOCH
from recsys.training.space import check_names, space, to_json
from recsys.training.study import Study, TrialRow
from recsys.training.trials import Clock, Look, Runner, TimeOver

logger = logging.getLogger(__name__)

# A study says nothing about other data; late events may add this share.
_DRIFT = 0.01


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Today's settings and the best ones, fitted again with another seed."""

    current: float
    best: float

    @property
    def holds(self) -> bool:
        """Whether the gain was no luck of one seed."""
        return self.best > self.current


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        trials: Every trial of the study, also those of other runs, in order.
        best: The one with the highest score; None when none was finished.
        epochs: Epochs of a whole trial.
        users: Users judged.
        interrupted: It was ended by Ctrl-C.
        confirmation: The second opinion, None when there was nothing to confirm.
    """

    trials: Sequence[TrialRow]
    best: TrialRow | None
    epochs: int
    users: int
    interrupted: bool
    confirmation: Confirmation | None = None


def search(
    dataset: Dataset,
    model: ModelConfig,
    path: Path,
    *,
    only: Sequence[str] = (),
    resume: bool = False,
    trials: int | None = None,
    budget_s: float | None = None,
    progress: Progress,
) -> Found:
    """Search for better settings on the validation slice.

    Args:
        dataset: All the data; its latest part is the validation slice.
        model: Today's settings: the first trial, and what is not searched.
        path: The study's journal.
        only: Settings to search; empty means the usual ones.
        resume: Go on with an existing study; else the file must not exist.
        trials: Trials of this run at most.
        budget_s: Seconds of this run at most.
        progress: Receives seconds, or trials without a budget.

    Raises:
        ConfigError: The study cannot be opened, or nothing can be searched.
        TrainingError: Nobody can be validated on, or the data are not the study's.
    """
    started = time.perf_counter()
    check_names(only)  # before there is a file, which --resume would go on with
    study = studies.open_study(path, resume=resume, seed=model.train.seed)
    if study.settled:
        # recsys.toml may have changed since: a study compares what it began with.
        begun = replace(model.train, **_plain(study.facts["config"]))
        model = replace(model, train=begun)
    else:
        # Of a study's data it was said when it began, and they are not to change.
        warn_of_gap(dataset, model.train)
    runner = Runner(dataset, model)
    if not study.settled:
        _set_up(study, runner, dataset, model.train, only, budget_s)
    _check_data(study, dataset)
    studies.bury_the_dead(study)
    runner.take(study)
    deadline = math.inf if budget_s is None else started + budget_s
    total = trials if budget_s is None else max(1, round(budget_s))
    interrupted = False
    with progress.stage("tune", total) as stage:
        clock = Clock(stage, started, deadline, seconds=budget_s is not None)
        try:
            _run(study, runner, clock, trials)
            confirmation = _confirm(study, runner, clock)
        except KeyboardInterrupt:
            interrupted, confirmation = True, None
    rows = study.rows()
    return Found(
        trials=rows,
        best=_best(rows),
        epochs=runner.epochs,
        users=runner.judge.users,
        interrupted=interrupted,
        confirmation=confirmation,
    )


def _set_up(
    study: Study,
    runner: Runner,
    dataset: Dataset,
    config: TrainConfig,
    only: Sequence[str],
    budget_s: float | None,
) -> None:
    """Decide once what the study compares, and queue today's settings first."""
    rows = runner.rows
    dimensions = space(
        runner.current,
        only=only,
        content=dataset.items is not None,
        largest={
            "batch": max(LEAST_BATCH, math.ceil(len(rows.user) / STEPS_PER_EPOCH)),
            "negatives": len(rows.items),
        },
    )
    study.settle(
        {
            "space": to_json(dimensions),
            "epochs": runner.affordable(budget_s),
            "interactions": len(dataset),
            "until": dataset.until,
            "config": _plain(asdict(config)),
        },
        {d.name: runner.current[d.name] for d in dimensions},
        dimensions,
    )


def _check_data(study: Study, dataset: Dataset) -> None:
    before = int(study.facts["interactions"])
    if abs(len(dataset) - before) > _DRIFT * before:
        raise TrainingError(
            f"the study was begun on {before:,} interactions, and there are now"
            f" {len(dataset):,}: its trials cannot be compared with new ones",
            hint="Begin a new study with --study FILE.",
        )


def _run(study: Study, runner: Runner, clock: Clock, trials: int | None) -> None:
    """Run trials until the budget or the number is used up."""
    done = 0
    while (trials is None or done < trials) and _worth_starting(study, clock):
        trial = study.ask(f"{socket.gethostname()}:{os.getpid()}")
        best = _best(study.rows())
        started = time.perf_counter()
        try:
            look = runner.trial(trial, clock, _score(best))
        except studies.Pruned:
            trial.end("pruned", seconds=time.perf_counter() - started)
        except TimeOver:
            trial.end("unfinished", seconds=time.perf_counter() - started)
            return
        except TrainingError as exc:
            logger.warning("trial %d: %s", trial.number, exc)
            trial.end("failed", note=str(exc), seconds=time.perf_counter() - started)
        except BaseException:
            trial.end("interrupted", seconds=time.perf_counter() - started)
            raise
        else:
            trial.complete(
                look.score,
                {**look.metrics, "epoch": float(look.epoch)},
                time.perf_counter() - started,
            )
        done += 1
        clock.trial_done()


def _worth_starting(study: Study, clock: Clock) -> bool:
    """Begin a trial only when it can show something, the first one in any case."""
    whole = [row.seconds for row in study.rows() if row.state == "complete"]
    if not whole:
        return not clock.over
    # Two whole fits are kept for the confirmation; a hopeless trial ends at half.
    return clock.left_s() > 2.5 * median(whole)


def _confirm(study: Study, runner: Runner, clock: Clock) -> Confirmation | None:
    """Fit today's settings and the best ones again, with another seed."""
    rows = study.rows()
    best = _best(rows)
    if best is None or best.number == 0 or clock.over:
        return None
    first = next((row for row in rows if row.number == 0), None)
    if first is None or first.state != "complete":
        return None

    def seen(look: Look, epoch: int, score: float) -> None:
        clock.tick(f"confirming: {score:.4f} at {epoch}, {look.score:.4f}")

    seed = runner.config.seed + 1
    try:
        scores = [
            runner.judged(row.settings, seed, seen, clock).score
            for row in (first, best)
        ]
    except TimeOver:
        return None
    found = Confirmation(*scores)
    study.note("confirmation", {"best": best.number, "current_score": found.current,
                                "best_score": found.best})  # fmt: skip
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that JSON gives back as they were."""
    kinds = (int, float, str, bool)
    return {name: value for name, value in values.items() if isinstance(value, kinds)}


def _best(rows: Sequence[TrialRow]) -> TrialRow | None:
    done = [row for row in rows if row.state == "complete"]
    return max(done, key=_score, default=None)


def _score(row: TrialRow | None) -> float:
    return -math.inf if row is None or row.score is None else row.score
