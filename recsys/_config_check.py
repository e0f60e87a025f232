"""What values of a model's configuration go together, and how far each may go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys._learning_config import negatives_problems, train_problems
from recsys._toml import listed, literal
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.config import ModelConfig

QUANTISATIONS = ("none", "binary")


def check(config: ModelConfig, where: str) -> None:
    """Check every value, alone and beside the others.

    Args:
        config: A whole model.
        where: How a message names its table.

    Raises:
        ConfigError: A value is out of range, or does not go with another one.
    """
    _check_ranges(config, where)
    _check_queries(config, where)
    _check_names(config, where)


def _check_ranges(config: ModelConfig, where: str) -> None:
    train, index, content = config.train, config.index, config.content
    bad = (
        *train_problems(train),
        *negatives_problems(config.negatives),
        (not 2 <= index.m <= 100, "index.m must be 2 to 100"),
        (
            not max(4, 2 * index.m) <= index.ef_construction <= 1000,
            "index.ef_construction must be 2*m to 1000",
        ),
        (not 0 < index.recall_target <= 1, "index.recall_target must be in (0, 1]"),
        (index.memory_mb < 16, "index.memory_mb must be at least 16"),
        (not 0 <= content.cross <= 8, "content.cross must be 0 to 8 layers"),
        (not 0 <= content.rank <= 1024, "content.rank must be 0 to 1024"),
        (not 0 <= content.hidden <= 4096, "content.hidden must be 0 to 4096"),
        (
            not 0 <= index.prefix <= train.first_dim,
            f"index.prefix must be 0 to train.dim, which is {train.first_dim}",
        ),
        (
            index.quantisation not in QUANTISATIONS,
            f"index.quantisation must be one of {listed(QUANTISATIONS)}",
        ),
        (
            config.query.headed and train.first_dim % config.query.heads > 0,
            f"query.heads must divide train.dim, which is {train.first_dim}",
        ),
    )
    for wrong, message in bad:
        if wrong:
            raise ConfigError(f"{where} {message}")
    problem = config.update.problem()
    if problem:
        raise ConfigError(f"{where} update.{problem}")


def _check_queries(config: ModelConfig, where: str) -> None:
    """Refuse settings that need queries of another kind."""
    if config.update.every_s and config.query.beyond_mean:
        raise ConfigError(
            f"{where} update.every_s needs queries that are means of histories, not"
            f" those of {config.query.beyond_mean}",
            hint='Set query.encoder = "mean" and query.interests_from = "clusters", or'
            " leave out update.every_s and train regularly.",
        )
    for name in ("companions", "recent_beta"):
        if config.query.sequential and getattr(config.train, name) > 0:
            raise ConfigError(
                f"{where} train.{name} needs the mean of the history, and query.encoder"
                f" is {literal(config.query.encoder)}",
                hint=f"Leave out train.{name}: sequences are learned without it.",
            )


def _check_names(config: ModelConfig, where: str) -> None:
    """Refuse context features that are called as columns with another meaning."""
    names = [f.name for f in config.context.features]
    columns = {"user_id", "item_id", "occurred_at", "kind"}
    if config.interactions.value:
        columns.add("value")
    reserved = [name for name in names if name in columns]
    if reserved:
        raise ConfigError(
            f"{where} context feature uses a reserved name: {listed(reserved)}"
        )
    if config.users.features and not config.users.sql:
        raise ConfigError(f"{where} users.features need users.sql")
