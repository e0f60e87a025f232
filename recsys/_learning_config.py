"""What recsys.toml says about learning: ``[model.NAME.train]`` and ``.negatives``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Hyper-parameters; 0 or an empty value means "chosen on the validation slice".

    Attributes:
        dim: Length of the learned unit vectors; stored item vectors have one more.
        history: Most recent items of a user that make the query vector.
        epochs: Passes over the users; 0 lets early stopping choose, up to max_epochs.
        max_epochs: Upper bound of the choice.
        budget_s: Seconds for tuning and fitting together.
        batch: Users per step.
        negatives: Shared uniform negatives per step.
        tau: Temperature; 0 chooses.
        dropout: Share of history items hidden per step; negative chooses.
        beta: Weight of log popularity inside the loss.
        lr: Peak learning rate of Adam.
        id_dropout: Share of items per step that must do with their content alone;
            only when item features are declared.
        validation: Share of the interactions (the latest ones, when they have a time)
            held out to choose the settings.
        seed: Every random choice follows from it.
        prefixes: Lengths that rank by themselves, too: the loss is the mean over them
            and the whole vectors.
    """

    dim: int = 64
    history: int = 256
    epochs: int = 0
    max_epochs: int = 70
    budget_s: float = 180.0
    batch: int = 512
    negatives: int = 8192
    tau: float = 0.0
    dropout: float = -1.0
    beta: float = 0.5
    lr: float = 6e-3
    id_dropout: float = 0.15
    validation: float = 0.1
    seed: int = 0
    prefixes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # TOML and JSON have lists only.
        object.__setattr__(self, "prefixes", tuple(self.prefixes))


def train_problems(train: TrainConfig) -> list[tuple[bool, str]]:
    """Return what may be wrong with the values: whether it is, and what to say."""
    return [
        (not 2 <= train.dim <= 1999, "train.dim must be 2 to 1999"),
        (not 1 <= train.history <= 10_000, "train.history must be 1 to 10000"),
        (train.epochs < 0 or train.max_epochs < 1, "train.epochs must be positive"),
        (train.budget_s <= 0, "train.budget_s must be positive seconds"),
        (train.batch < 1 or train.negatives < 1, "train.batch/negatives must be > 0"),
        (train.tau < 0, "train.tau must be positive, or 0 to choose"),
        (train.dropout >= 1, "train.dropout must be below 1"),
        (not 0 <= train.id_dropout < 1, "train.id_dropout must be in [0, 1)"),
        (not 0 < train.validation < 0.5, "train.validation must be in (0, 0.5)"),
        (
            any(type(p) is not int or not 0 < p <= train.dim for p in train.prefixes),
            f"train.prefixes must be lengths from 1 to train.dim, which is {train.dim}",
        ),
    ]
