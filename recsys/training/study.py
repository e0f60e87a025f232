"""A study of ``recsys tune``: trials in a journal file, by way of optuna.

The only module that imports optuna. The file is JSON lines, appended under a lock: what
was finished before a crash is kept, and processes on one file see each other's trials.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from recsys._wording import counted
from recsys.errors import ConfigError
from recsys.training.space import Dimension

logger = logging.getLogger(__name__)

_NAME = "recsys"
_BEGIN = b'{"op_code":'
_RANDOM_TRIALS = 6
# Curves cross in the beginning: no trial is ended before this share of its epochs.
_WARM_UP = 1 / 3
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}


class Pruned(Exception):
    """A trial is ended early."""


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial of a study.

    Attributes:
        number: Counted from 0, which has the settings of before.
        state: "complete", "pruned" (its curve was below the median), "unfinished"
            (the time was over), "failed", "interrupted", "running" or "waiting".
        score: recall@20 + ndcg@20 of its best look; of its last one unless complete.
        metrics: recall@20, ndcg@20, hr@10 and the epoch of the best look.
        seconds: How long it took.
        settings: What it tried.
        curve: Score by epoch.
        note: Why it failed.
    """

    number: int
    state: str
    score: float | None
    metrics: Mapping[str, float]
    seconds: float
    settings: Mapping[str, Any]
    curve: Mapping[int, float] = field(default_factory=dict[int, float])
    note: str = ""


class Trial:
    """A trial under way."""

    def __init__(self, study: optuna.Study, trial: optuna.Trial) -> None:
        self._study = study
        self._trial = trial
        self.number = trial.number
        self._settings: dict[str, Any] = {}

    def suggest(self, dimension: Dimension) -> Any:
        """Return a value for one setting."""
        name = dimension.name
        if not dimension.choices:
            low, high = dimension.low, dimension.high
            value: Any = self._trial.suggest_float(name, low, high, log=dimension.log)
            # Four digits say enough, and can be read in recsys.toml.
            value = min(max(float(f"{value:.4g}"), low), high)
        elif dimension.ordered:
            # By place: neighbours are alike, and steps of a factor are even.
            place = self._trial.suggest_int(name, 0, len(dimension.choices) - 1)
            value = dimension.choices[place]
        else:
            value = self._trial.suggest_categorical(name, list(dimension.choices))
        self._settings[name] = value
        self._trial.set_user_attr("settings", dict(self._settings))
        return value

    def report(self, score: float, epoch: int) -> bool:
        """Note a look; returns whether the trial should end."""
        self._trial.report(score, epoch)
        return self._trial.should_prune()

    def complete(
        self, score: float, metrics: Mapping[str, float], seconds: float
    ) -> None:
        """End the trial with its result."""
        self._trial.set_user_attr("metrics", dict(metrics))
        self._trial.set_user_attr("seconds", round(seconds, 3))
        self._study.tell(self._trial, score)

    def end(self, state: str, *, seconds: float, note: str = "") -> None:
        """End the trial without a result."""
        self._trial.set_user_attr("ended", state)
        self._trial.set_user_attr("seconds", round(seconds, 3))
        if note:
            self._trial.set_user_attr("note", note)
        # A loss that is not finite is bad news about the settings: the sampler learns
        # from a pruned trial, and would forget a failed one.
        bad = state in ("pruned", "failed")
        self._study.tell(
            self._trial, state=TrialState.PRUNED if bad else TrialState.FAIL
        )


class Study:
    """A study in a journal file."""

    def __init__(self, study: optuna.Study, seed: int, path: Path) -> None:
        self._study = study
        self._seed = seed
        self._path = path

    @property
    def settled(self) -> bool:
        """Whether somebody decided what is compared."""
        return "facts" in self._study.user_attrs

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is compared: space, epochs, and the data it was begun on."""
        return self._study.user_attrs["facts"]

    def settle(
        self,
        facts: Mapping[str, Any],
        first: Mapping[str, Any],
        dimensions: Sequence[Dimension],
    ) -> None:
        """Decide what is compared, and queue the first trial; the first one decides."""
        places = {d.name: d for d in dimensions}
        values = {
            name: places[name].choices.index(value)
            if places[name].choices and places[name].ordered
            else value
            for name, value in first.items()
        }
        lock = JournalFileSymlinkLock(f"{self._path}.begin")
        lock.acquire()
        try:
            if not self.settled:
                self._study.enqueue_trial(values)
                self._study.set_user_attr("facts", dict(facts))
        finally:
            lock.release()

    def note(self, name: str, value: Any) -> None:
        """Keep something with the study."""
        self._study.set_user_attr(name, value)

    def noted(self, name: str) -> Any:
        """Return what ``note`` kept, None without."""
        return self._study.user_attrs.get(name)

    def ask(self, who: str) -> Trial:
        """Begin a trial."""
        warm_up = int(_WARM_UP * int(self.facts["epochs"]))
        self._study.pruner = optuna.pruners.MedianPruner(4, warm_up)
        # The same seed again would draw the same points again.
        seed = self._seed + 1000 * len(self._study.get_trials(deepcopy=False))
        self._study.sampler = TPESampler(
            seed=seed,
            n_startup_trials=_RANDOM_TRIALS,
            multivariate=True,
            constant_liar=True,
        )
        with _quiet():
            trial = self._study.ask()
        trial.set_user_attr("process", who)
        return Trial(self._study, trial)

    def rows(self) -> list[TrialRow]:
        """Return every trial in order."""
        return [_row(trial) for trial in self._study.get_trials(deepcopy=False)]

    def end(self, number: int, state: str) -> None:
        """End a trial of a process that is gone."""
        logger.info("trial %d is %s", number, state)
        self._study.tell(number, state=TrialState.FAIL)


def open_study(path: Path, *, resume: bool, seed: int) -> Study:
    """Open or make the study of a file.

    Raises:
        ConfigError: It exists and is not to be resumed, or cannot be used.
    """
    path = path.absolute()  # the lock is a link to it
    try:
        _check(path)
        with _quiet():
            study = optuna.create_study(
                study_name=_NAME,
                storage=_storage(path),
                direction="maximize",
                load_if_exists=True,
            )
    except OSError as exc:
        raise ConfigError(
            f"cannot use {path} as a study: {exc.strerror}",
            hint="Name a file in a folder that can be written to.",
        ) from exc
    found = Study(study, seed, path)
    if found.settled and not resume:
        rows = found.rows()
        done = sum(row.state == "complete" for row in rows)
        raise ConfigError(
            f"the study {path.name} exists: {counted(len(rows), 'trial')}, of which"
            f" {done:,} finished",
            hint="Go on with it by --resume. To begin anew delete it, or name another"
            " file with --study.",
        )
    return found


def _check(path: Path) -> None:
    """Refuse a file of something else before a byte of it is touched."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(len(_BEGIN))
    if start and start != _BEGIN:
        raise ConfigError(
            f"{path} is not a study", hint="Name another file with --study."
        )


def load(path: Path) -> Study:
    """Open a study to read.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    if not path.exists():
        raise ConfigError(
            f"there is no study {path}", hint="'recsys tune MODEL' makes one."
        )
    return open_study(path, resume=True, seed=0)


def _storage(path: Path) -> JournalStorage:
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        _repair(path)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock))


def _repair(path: Path) -> None:
    """Cut off a last line that a crash or a full disk left unfinished."""
    if not path.exists():
        return
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        logger.warning("%s ended in the middle of a line; it was cut off", path)
        os.truncate(path, whole)


def bury_the_dead(study: Study) -> None:
    """End the trials of processes of this machine that are gone."""
    for trial in study._study.get_trials(deepcopy=False):  # pyright: ignore[reportPrivateUsage] # same module
        host, _, pid = str(trial.user_attrs.get("process", "")).rpartition(":")
        if trial.state == TrialState.RUNNING and host == socket.gethostname():
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                study.end(trial.number, "abandoned: its process is gone")
            except PermissionError:
                pass  # it lives, and is somebody else's


def _row(trial: FrozenTrial) -> TrialRow:
    attributes = trial.user_attrs
    curve = {int(k): float(v) for k, v in trial.intermediate_values.items()}
    last = curve[max(curve)] if curve else None
    complete = trial.state == TrialState.COMPLETE
    return TrialRow(
        number=trial.number,
        state=attributes.get("ended") or _STATES[trial.state],
        score=trial.value if complete else last,
        metrics=attributes.get("metrics", {}),
        seconds=float(attributes.get("seconds", 0.0)),
        settings=attributes.get("settings", {}),
        curve=curve,
        note=str(attributes.get("note", "")),
    )


@contextmanager
def _quiet() -> Generator[None]:
    """Keep optuna's remarks on interfaces that may change to itself."""
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
