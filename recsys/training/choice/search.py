"""The search for the best settings and encoder in the time there is."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from recsys._learning_config import TELLING_EPOCHS
from recsys._query_config import QueryConfig
from recsys.config import TrainConfig
from recsys.errors import TrainingError
from recsys.training.choice.clock import LOOKS, Clock
from recsys.training.choice.fits import Fits, Run
from recsys.training.choice.tried import Change, changes
from recsys.training.encoders import DROPOUT
from recsys.training.settings import Settings

logger = logging.getLogger(__name__)

DEFAULT_EPOCHS = 20
# A short fit flatters a low dropout: it learns faster and has no time to overfit. So
# shorter fits than this compare no dropouts; a lower dropout must win clearly once.
_FAIR_EPOCHS = 4
_LEAD = 0.01
# A larger model takes more of everything for good.
_LARGER_LEAD = 0.01
# Likewise it holds companions back, which need time to pay: they are taken unless they
# lose by more than this, divided by the number of epochs.
_SLACK = 0.05
# Left out in this order where fits are shorter; "behind" is what is tried behind a
# value that won.
_NEED_TIME = ("dim", "companions", "behind", "dropout")
# Share of the search that encoders of sequences get, and how much better one must be.
_ORDER = 0.5
_ORDER_LEAD = 0.01


class Search:
    """Compares settings by short fits, then makes a long one, then tries encoders.

    Args:
        fits: Makes the fits.
        clock: The time there is.
        config: What is fixed.
    """

    def __init__(self, fits: Fits, clock: Clock, config: TrainConfig) -> None:
        self._fits = fits
        self._clock = clock
        self._config = config

    def best(self, settings: Settings, others: Sequence[QueryConfig]) -> Run:
        """Return the longest fit with the best settings and encoder found."""
        if not self._clock.fixed:
            self._fits.calibrate(settings)
        others, deadline = self.affordable(others), self._clock.deadline
        if not others and not self._clock.fixed:
            # Nobody knows how long the epochs of other encoders take.
            self._clock.take_spare()
            deadline = self._clock.deadline
        if others:
            self._clock.deadline -= _ORDER * self._clock.left_s
        best = self._best_of(settings)
        self._clock.deadline = deadline
        return self._with_order(best, others)

    def affordable(self, others: Sequence[QueryConfig]) -> Sequence[QueryConfig]:
        """Return the encoders that there is time to judge: all of them, or none."""
        if self._clock.fixed or not others:
            return others
        each = _ORDER * self._clock.left_s / len(others)
        fair = min(_FAIR_EPOCHS, self._config.max_epochs)
        return others if self._clock.epochs_in(each, LOOKS) >= fair else []

    def _best_of(self, settings: Settings) -> Run:
        """Return the longest fit with the best settings found, or a shorter one."""
        best = self._compare(settings)
        if best is not None:
            # The last one compared may have been of another pace.
            self._clock.measured(best.epoch_s, best.look_s)
        limit_s = self._clock.limit_s()
        chosen = settings if best is None else best.settings
        long = self._fits.run(chosen, self._clock.long(), LOOKS, limit_s)
        if best is None or not best.beats(long):
            return long
        # More epochs were worse, or a machine that slowed down left no time for more.
        longer = long.epochs > max(best.epochs, TELLING_EPOCHS - 1)
        return replace(best, overfitted=longer)

    def _with_order(self, best: Run, others: Sequence[QueryConfig]) -> Run:
        """Return a fit of an encoder of sequences where it is clearly better."""
        for left, query in zip(range(len(others), 0, -1), others, strict=True):
            # What sets alone are trained with does not go with places.
            settings = replace(
                best.settings, query=query, companions=0.0, recent_beta=0.0
            )
            if self._config.dropout < 0:
                settings = replace(settings, dropout=DROPOUT)
            epochs = self._clock.short(1) if self._clock.fixed else DEFAULT_EPOCHS
            try:
                limit_s = self._clock.limit_s(left)
                other = self._fits.run(settings, epochs, LOOKS, limit_s)
            except TrainingError as exc:
                logger.info("no %s encoder: %s", query.encoder, exc)
                continue
            if other.beats(best, _ORDER_LEAD):
                best = other
        return best

    def _compare(self, settings: Settings) -> Run | None:
        """Return the best of the short fits; None when there is nothing to choose."""
        timed = self._fits.part.rows.periods is not None
        every = changes(settings, self._config, timed=timed)
        tried, epochs = self._telling(every)
        if not tried:
            return None
        end = self._clock.end_of_short_fits()
        best = self._fits.run(settings, epochs, looks=1)
        for change in tried:
            if time.perf_counter() > end:
                break
            if not change.worth_trying(best.settings):
                continue
            other = self._fits.run(change.of(best.settings), epochs, looks=1)
            if other.beats(best, _lead(change, best.settings, epochs)):
                best = other
        return best

    def _telling(self, tried: list[Change]) -> tuple[list[Change], int]:
        """Return what fits as short as they must be can tell, and their epochs."""
        epochs = self._clock.short(_fits(tried))
        for name in _NEED_TIME:
            if self._clock.fixed or epochs >= _FAIR_EPOCHS:
                break
            tried = [c for c in tried if (c.name if c.sure else "behind") != name]
            epochs = self._clock.short(_fits(tried))
        return tried, epochs


def _fits(tried: list[Change]) -> int:
    """Return how many fits to have time for, that of the settings among them.

    Of what is tried behind a value that won, one: more are made if time is left.
    """
    sure = sum(change.sure for change in tried)
    return 1 + sure + (sure < len(tried))


def _lead(change: Change, settings: Settings, epochs: int) -> float:
    """Return by which share a value must win; negative: how far it may lose."""
    if change.name == "companions":
        return -_SLACK / epochs
    if change.name == "dim":
        return _LARGER_LEAD
    lower = change.name == "dropout" and change.value < settings.dropout
    return _LEAD if lower and change.sure else 0.0
