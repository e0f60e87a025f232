"""What the processes do that do not lead: they join the fits of the one that does."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager

from recsys.errors import TrainingError
from recsys.training.loop import fit
from recsys.training.team import ApartError, Team, joined

logger = logging.getLogger(__name__)


@contextmanager
def together() -> Generator[bool]:
    """Join the processes of ``torchrun``; whether this one leads.

    In any other process the block is entered after the leader's work is done.

    Raises:
        TrainingError: A process has ended.
    """
    with joined(int(os.environ.get("LOCAL_RANK", "0"))) as team:
        if not team.leads:
            _follow(team)
        yield team.leads


def _follow(team: Team) -> None:
    while (job := team.receive()) is not None:
        assert job.dataset is not None
        assert job.rows is not None
        try:
            fit(
                job.dataset,
                job.rows,
                job.settings,
                job.epochs,
                job.seed,
                job.start,
                initial=job.initial,
                source=job.source,
                near=job.near,
                teacher=job.teacher,
                state=job.state,
            )
        except ApartError:
            raise
        except TrainingError as exc:
            # The leader has met the same, and decides what becomes of it.
            logger.debug("a fit ended early: %s", exc)
