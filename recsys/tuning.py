"""Better settings for a model: what ``recsys tune`` does."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys import _db, _texts, _toml_edit, schema
from recsys._extras import needed
from recsys._last import warn_of_end
from recsys._wording import counted
from recsys.config import ModelConfig, ProjectConfig
from recsys.errors import ConfigError
from recsys.progress import SILENT, Progress

if TYPE_CHECKING:
    from recsys.training.search import Found
    from recsys.training.study import TrialRow

DEFAULT_BUDGET_S = 900.0
# What is worth resuming for: so many whole fits, and no less than a minute.
_FITS, _LEAST_S = 15, 60
_SHOWN = ("complete", "pruned", "failed")
"""States of trials that say something about their settings."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a tuning found.

    Attributes:
        model: Name of the model.
        study: File of the study.
        found: Trials, the best of them, and a second opinion.
        resumes: The command that goes on, but for its limits.
        budget_s: Seconds that it had at most; 0 where there was no limit.
    """

    model: str
    study: Path
    found: Found
    resumes: str = ""
    budget_s: float = 0.0

    @property
    def better(self) -> bool:
        """Whether other settings than today's won, also with another seed."""
        found = self.found
        if found.best is None or found.best.number == 0:
            return False
        return found.confirmation is None or found.confirmation.holds

    @property
    def table(self) -> str:
        """Name of the table of recsys.toml that the settings belong to."""
        return f"model.{self.model}.train"

    @property
    def snippet(self) -> str:
        """The best settings as lines of recsys.toml; empty without any."""
        best = self.found.best
        return _toml_edit.snippet(self.table, best.settings) if best else ""

    @property
    def verdict(self) -> str:
        """What came out, in a sentence or two."""
        found = self.found
        if found.best is None:
            return _none_finished(found)
        if not any(row.number and row.state in _SHOWN for row in found.trials):
            return _only_today(found.best, self.resumes, self.budget_s)
        return _verdict(found, found.best)


def _none_finished(found: Found) -> str:
    """Say why nothing can be compared, and how to begin anew."""
    failed = sum(row.state == "failed" for row in found.trials)
    if failed:
        return (
            f"No trial was finished, {failed:,} failed: the warnings say why. Mend it,"
            " and begin a new study with --study FILE."
        )
    if found.interrupted:
        return "No trial was finished."
    # To go on would be no help: a small budget has also made the trials short.
    return (
        "No trial was finished in this time, so nothing was compared. Begin a new study"
        " with --study FILE and a larger --budget."
    )


def _only_today(today: TrialRow, resumes: str, budget_s: float) -> str:
    """Say that nothing was compared yet, and which command goes on."""
    budget = math.ceil(max(_LEAST_S, _FITS * today.seconds, budget_s))
    return (
        f"Only today's settings were tried, in {today.seconds:.0f} s: no other trial"
        f" was finished, so nothing was compared. Go on: {resumes} --budget {budget}"
    )


def _verdict(found: Found, best: TrialRow) -> str:
    if best.number == 0:
        others = [row.state for row in found.trials if row.number]
        if "complete" not in others and "pruned" not in others:
            failed = counted(others.count("failed"), "other trial")
            return (
                f"Only today's settings were tried to the end, {failed} failed: the"
                " warnings say why, and nothing was compared."
            )
        return "Nothing was better than today's settings."
    today = next((row for row in found.trials if row.number == 0), None)
    gain = ""
    if today is not None and today.state == "complete" and today.score:
        gain = f" {(best.score or 0.0) / today.score - 1:+.1%} over today's settings"
    words = f"Trial {best.number} is best:{gain or ' today has no score'}."
    second = found.confirmation
    if second is None:
        return f"{words} Not confirmed with another seed: the time was over."
    again = second.best / second.current - 1 if second.current else 0.0
    if second.holds:
        return f"{words} Another seed confirms it: {again:+.1%}."
    return f"{words} Another seed does not confirm it ({again:+.1%}): keep today's."


def tune_model(
    dsn: str,
    project: ProjectConfig,
    model: str,
    *,
    study: Path | None = None,
    resume: bool = False,
    trials: int | None = None,
    budget_s: float | None = None,
    only: Sequence[str] = (),
    until: datetime | None = None,
    progress: Progress = SILENT,
) -> Tuned:
    """Search for better settings of a model on its validation slice.

    Nothing is written but the study, and nothing in the database changes but the kept
    vectors of encoded texts.

    Args:
        dsn: Connection string; empty means the ``PG*`` variables.
        project: The whole recsys.toml.
        model: Name of the model.
        study: Its file; default MODEL.study beside recsys.toml.
        resume: Go on with a study, on the data it was begun with: ``until`` is of no
            use then, and refused where it would leave some of them out.
        trials: Trials at most.
        budget_s: Seconds at most; default 900 unless trials are given.
        only: Settings to search; empty means the usual ones.
        until: Leave out interactions from this time on, as a test part.
        progress: Receives the progress.

    Raises:
        ConfigError: The model is not declared, or the study cannot be used, or not
            with ``until``.
        SourceError: A source fails or returns bad rows.
        TrainingError: Nobody can be validated on, or the data are not the study's.
    """
    config = _texts.with_encoders(project.model(model), project.path)
    if budget_s is None and trials is None:
        budget_s = DEFAULT_BUDGET_S
    for name, value in (("budget", budget_s), ("number of trials", trials)):
        if value is not None and value <= 0:
            raise ConfigError(f"the {name} must be positive, got {value}")
    path = study or study_path(project, model)
    search = _tools()
    known = _known_end(path, resume, until)
    dataset = _read(dsn, config, until, known, progress)
    found = search.search(
        dataset,
        config,
        path,
        only=only,
        resume=resume,
        trials=trials,
        budget_s=budget_s,
        progress=progress,
    )
    # Data and what is searched are the study's: they need not be said again.
    named = [] if study is None else ["--study", str(study)]
    resumes = shlex.join(["recsys", "tune", model, *named, "--resume"])
    return Tuned(model, path, found, resumes, budget_s or 0.0)


def trials(path: Path) -> Sequence[TrialRow]:
    """Return the trials of a study, in order.

    Raises:
        ConfigError: There is none, or it cannot be read.
        TrainingError: optuna is not installed.
    """
    return _tools().studies.load(path).rows()


def study_path(project: ProjectConfig, model: str) -> Path:
    """Return where the study of a model is kept by default."""
    folder = project.path.parent if project.path else Path.cwd()
    return folder / f"{model}.study"


def _tools() -> Any:
    with needed("tune", "tuning"):
        from recsys.training import search
    return search


def _known_end(path: Path, resume: bool, asked: datetime | None) -> datetime | None:
    """Return the end of the data that a study was begun on.

    A study that must not be resumed, or not on less data, is refused here, before the
    data are read.
    """
    from recsys.training import study as studies

    if not path.exists():
        if resume:
            raise ConfigError(
                f"there is no study {path}", hint="Begin one: leave out --resume."
            )
        return None
    known = studies.open_study(path, resume=resume, seed=0)
    if not known.settled or known.facts["until"] is None:
        return None
    # The last interaction itself belongs to the data.
    end = datetime.fromtimestamp(float(known.facts["until"]) + 1e-6, UTC)
    if asked is not None and asked.replace(tzinfo=asked.tzinfo or UTC) < end:
        raise ConfigError(
            f"--until {asked:%F %T} leaves out some of what the study {path.name} was"
            f" begun on: its data go on to {end:%F %T} UTC",
            hint="Leave out --until to go on with them. For other data begin a new"
            " study with --study FILE.",
        )
    return end


def _read(
    dsn: str,
    config: ModelConfig,
    asked: datetime | None,
    known: datetime | None,
    progress: Progress,
) -> Any:
    from recsys.training.data import read

    with _db.connect(dsn) as conn:
        schema.check(conn)
        conn.rollback()
        _texts.warm(dsn, config, progress)
        dataset = read(conn, config, until=known or asked, progress=progress)
        if known is None:
            warn_of_end(conn, config, asked)
        return dataset


def write_settings(project: ProjectConfig, tuned: Tuned) -> str:
    """Set the best settings in recsys.toml.

    Returns:
        The change as a unified diff; empty when they stood there already.

    Raises:
        ConfigError: There is no file, it changed, or it cannot be edited by line.
    """
    if project.path is None or tuned.found.best is None:
        raise ConfigError("there is nothing to write, or no recsys.toml to write to")
    before = project.path.read_text(encoding="utf-8")
    after = _toml_edit.edited(before, tuned.table, tuned.found.best.settings)
    if after != before:
        _toml_edit.replace(project.path, before, after)
    return _toml_edit.diff(before, after, project.path.name)
