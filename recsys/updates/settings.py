"""The section ``[model.X.update]`` of recsys.toml."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """How learned rows follow new interactions.

    Attributes:
        every_s: Seconds between two incremental updates by the workers; 0: none.
        overlap_s: An interaction is learned from when it is committed before another
            one is read that is so many seconds newer.
        max_interactions: New interactions of one update; the oldest come first, the
            rest waits for the next.
        lr: Largest step of the rows, in units of their typical component; smaller ones
            are tried, too.
        passes: Times each new interaction is learned from within its update.
        negatives: Items sampled per step.
        guard: An update is refused when rows that learned from the older part are
            worse on the newest part by more than so many standard errors.
        undo: Updates whose previous rows are kept.
        evict_days: A full update leaves out the learned rows of items without an
            interaction for so many days; 0: only those the source no longer has.
    """

    every_s: float = 0.0
    overlap_s: float = 300.0
    max_interactions: int = 200_000
    lr: float = 0.03
    passes: int = 5
    negatives: int = 2048
    guard: float = 1.0
    undo: int = 10
    evict_days: float = 0.0

    def problem(self) -> str:
        """Return what is out of range, empty when nothing is."""
        bad = (
            (self.every_s != 0 and not 10 <= self.every_s <= 86_400,
             "every_s must be 0 or 10 to 86400 seconds"),
            (not 0 <= self.overlap_s <= 86_400, "overlap_s must be 0 to 86400 seconds"),
            (not 1 <= self.max_interactions <= 10_000_000,
             "max_interactions must be 1 to 10 million"),
            (not 0 < self.lr <= 10, "lr must be above 0 and up to 10"),
            (not 1 <= self.passes <= 100, "passes must be 1 to 100"),
            (not 1 <= self.negatives <= 1_000_000,
             "negatives must be 1 to a million"),
            (self.guard < 0, "guard must not be negative"),
            (not 0 <= self.undo <= 1000, "undo must be 0 to 1000"),
            (self.evict_days < 0, "evict_days must not be negative"),
        )  # fmt: skip
        return next((message for wrong, message in bad if wrong), "")
