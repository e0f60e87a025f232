"""What recsys.toml says about learning: ``[model.NAME.train]`` and ``.negatives``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recsys._toml import listed

DEVICES = ("cpu", "cuda", "auto")
ITEM_UPDATES = ("auto", "dense", "sparse")
TELLING_EPOCHS = 6
"""A fit of fewer tells nothing about overfitting: its rate falls to 0 within them."""
DIM = 128
"""Length of vectors that is started from where none is given."""
OBJECTIVES = ("ranking", "softmax", "cosine", "bpr", "logistic")


def noise(users: float) -> float:
    """Return the relative change of a validation score that says nothing.

    Args:
        users: Those it is the mean of.
    """
    # Two looks at one fit agree on most users: a fifth of what a mean of them may vary.
    return max(0.005, 0.2 / math.sqrt(max(users, 1.0)))


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Hyper-parameters; 0 or an empty value means "chosen on the validation slice".

    Attributes:
        dim: Length of the learned unit vectors; stored item vectors have one more.
            0 chooses.
        history: Most recent items of a user that make the query vector.
        epochs: Passes over the users; 0 lets early stopping choose, up to max_epochs.
        max_epochs: Upper bound of the choice.
        budget_s: Seconds for tuning and fitting together.
        batch: Users per step.
        negatives: Shared uniform negatives per step.
        tau: Temperature; 0 chooses.
        dropout: Share of history items hidden per step; negative chooses.
        beta: Weight of log popularity inside the loss.
        recent_beta: The same for the popularity at the time of each interaction,
            instead of that of all time; 0 leaves it at that, negative chooses. Only
            with times.
        lr: Peak learning rate of Adam.
        id_dropout: Share of items per step that must do with their content alone;
            only when item features are declared.
        companions: Weight of a companion of each positive as a further positive;
            0 is without, negative chooses.
        validation: Share of the interactions held out to choose the settings; with
            times at least the latest ones, see ``horizon_days``.
        horizon_days: How long a version is to serve; 0: as long as the latest
            ``validation`` share took. Twice as long is held out, up to a third of the
            interactions. Only with times.
        seed: Every random choice follows from it.
        prefixes: Lengths that rank by themselves, too: the loss is the mean over them
            and the whole vectors.
        objective: One of ``OBJECTIVES``.
        margin: "cosine" only: a negative below this cosine costs nothing.
        negative_weight: "cosine" and "logistic": weight of the negatives of a query
            where its positives weigh 1; 0 takes the objective's own.
        pairs: "bpr" only: negatives per positive.
        half_life_days: An interaction this old weighs half as a target; 0: no decay.
        distil: With a teacher: weight of what it says, where the objective weighs 1.
        int8: Publish towers with weights of eight bits.
        device: "cpu", "cuda", or "auto" for the faster that is there.
        item_updates: Which item rows a step updates: "dense" all, "sparse" those that
            it touches, "auto" whichever is faster. The result is the same.
    """

    dim: int = 0
    history: int = 256
    epochs: int = 0
    max_epochs: int = 120
    budget_s: float = 180.0
    batch: int = 512
    negatives: int = 8192
    tau: float = 0.0
    dropout: float = -1.0
    beta: float = 0.5
    recent_beta: float = -1.0
    lr: float = 6e-3
    id_dropout: float = 0.15
    companions: float = -1.0
    validation: float = 0.1
    horizon_days: float = 0.0
    seed: int = 0
    prefixes: tuple[int, ...] = ()
    objective: str = "ranking"
    margin: float = 0.8
    negative_weight: float = 0.0
    pairs: int = 4
    half_life_days: float = 0.0
    distil: float = 1.0
    int8: bool = False
    device: str = "cpu"
    item_updates: str = "auto"

    def __post_init__(self) -> None:
        # TOML and JSON have lists only.
        object.__setattr__(self, "prefixes", tuple(self.prefixes))

    @property
    def first_dim(self) -> int:
        """The length of vectors that the choice starts from."""
        return self.dim or DIM


@dataclass(frozen=True, slots=True)
class NegativesConfig:
    """Where the negatives of a step come from.

    The first three are shares of the ``train.negatives`` that a step's queries share;
    the next three are numbers of negatives that a query has alone. Whatever a query's
    user has met is a negative of it nowhere, but for explicit dislikes.

    Attributes:
        uniform: Share drawn uniformly from the trained items.
        popular: Share drawn with probability popularity ^ ``alpha``.
        in_batch: Share drawn from the positives of the step, that is by popularity.
        alpha: Exponent of the popularity.
        logq: Correct for the sampling: count each negative as the number of items it
            stands for. Without, what is drawn more is pushed away more.
        shown: Most items per query that were shown to its user and not chosen.
        shown_days: How old such an impression may be, in days before the last event.
        neighbours: Most items per query that the version before holds for similar to
            one of its positives.
        disliked: Most explicit dislikes per query, see ``interactions.dislikes``.
        own_weight: How much a negative of one query counts where one of the shared
            sample counts 1.
    """

    uniform: float = 1.0
    popular: float = 0.0
    in_batch: float = 0.0
    alpha: float = 0.75
    logq: bool = True
    shown: int = 0
    shown_days: float = 30.0
    neighbours: int = 0
    disliked: int = 8
    own_weight: float = 1.0


def train_problems(train: TrainConfig) -> list[tuple[bool, str]]:
    """Return what may be wrong with the values: whether it is, and what to say."""
    return [
        (
            train.dim != 0 and not 2 <= train.dim <= 1999,
            "train.dim must be 2 to 1999, or 0 to choose",
        ),
        (not 1 <= train.history <= 10_000, "train.history must be 1 to 10000"),
        (train.epochs < 0, "train.epochs must be 0 to choose, or positive"),
        (train.max_epochs < 1, "train.max_epochs must be positive"),
        (train.budget_s <= 0, "train.budget_s must be positive seconds"),
        (train.batch < 1 or train.negatives < 1, "train.batch/negatives must be > 0"),
        (not 0 < train.lr <= 1, "train.lr must be positive, up to 1"),
        (not 0 <= train.beta <= 10, "train.beta must be a weight from 0 to 10"),
        (
            not train.recent_beta <= 10,
            "train.recent_beta must be a weight up to 10, or negative to choose",
        ),
        (train.tau < 0, "train.tau must be positive, or 0 to choose"),
        (train.dropout >= 1, "train.dropout must be below 1"),
        (not 0 <= train.id_dropout < 1, "train.id_dropout must be in [0, 1)"),
        (train.companions > 10, "train.companions must be a weight up to 10"),
        (not 0 < train.validation < 0.5, "train.validation must be in (0, 0.5)"),
        (
            not 0 <= train.horizon_days <= 3650,
            "train.horizon_days must be days, or 0 for what is held out",
        ),
        (
            any(
                type(p) is not int or not 0 < p <= train.first_dim
                for p in train.prefixes
            ),
            "train.prefixes must be lengths from 1 to train.dim, which is"
            f" {train.first_dim}",
        ),
        (
            train.objective not in OBJECTIVES,
            f"train.objective must be one of {listed(OBJECTIVES)}",
        ),
        (not -1 <= train.margin <= 1, "train.margin must be from -1 to 1"),
        (
            not 0 <= train.negative_weight <= 1e6,
            "train.negative_weight must be from 0 to a million",
        ),
        (not 1 <= train.pairs <= 1000, "train.pairs must be 1 to 1000"),
        (not 0 < train.distil <= 1000, "train.distil must be a weight up to 1000"),
        (train.half_life_days < 0, "train.half_life_days must be 0 or more"),
        (
            train.device not in DEVICES,
            f"train.device must be one of {listed(DEVICES)}",
        ),
        (
            train.item_updates not in ITEM_UPDATES,
            f"train.item_updates must be one of {listed(ITEM_UPDATES)}",
        ),
    ]


def negatives_problems(config: NegativesConfig) -> list[tuple[bool, str]]:
    """Return what may be wrong with the values: whether it is, and what to say."""
    shares = (config.uniform, config.popular, config.in_batch)
    counts = (config.shown, config.neighbours, config.disliked)
    return [
        (
            min(shares) < 0 or not 0 < sum(shares) <= 1e6,
            "negatives.uniform, popular and in_batch are shares: 0 or more, one of "
            "them more",
        ),
        (not 0 <= config.alpha <= 2, "negatives.alpha must be from 0 to 2"),
        (
            not all(0 <= count <= 1000 for count in counts),
            "negatives.shown, neighbours and disliked must be from 0 to 1000",
        ),
        (not config.shown_days > 0, "negatives.shown_days must be positive days"),
        (
            not 0 < config.own_weight <= 1e6,
            "negatives.own_weight must be positive, up to a million",
        ),
    ]
