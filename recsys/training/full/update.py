"""The full update: a version goes on from the one before, on what came since.

One epoch over the new interactions, shuffled, each once, from the rows and weights of
the parent. Its peak learning rate is chosen among a few shares of the parent's: each is
tried on the older part of the news and judged on the newest, as is no learning at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys._parent import Parent
from recsys.config import ModelConfig
from recsys.errors import TrainingError
from recsys.popularity import Trend
from recsys.progress import SILENT, Progress
from recsys.segments import Metrics
from recsys.training import health
from recsys.training.carried import carried_weights, learned_rows
from recsys.training.choice.tried import first_settings
from recsys.training.dataset import Dataset
from recsys.training.evaluation import Judge
from recsys.training.export import TrainedModel
from recsys.training.finish import Finish, finish
from recsys.training.loop import fit
from recsys.training.metrics import score_of
from recsys.training.model import Towers
from recsys.training.ragged import Ragged
from recsys.training.rows import QueryRows, query_rows
from recsys.training.settings import Settings
from recsys.training.split import Split, judged
from recsys.training.trend import bias, grid
from recsys.training.validated import validated
from recsys.types import ItemId

logger = logging.getLogger(__name__)

Weights = Mapping[str, NDArray[np.float32]]

SHARES = (1.0, 0.3, 0.1)
"""Peak learning rates that are tried, as shares of the parent's."""
_NEWEST = 0.2
_DAY_S = 86_400.0
_LEARNED = ("tau", "dropout", "beta", "recent_beta", "lr", "companions")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What the newest part of the news chose."""

    share: float
    trend: Trend
    validation: dict[str, Any]
    tried: list[dict[str, float]]
    segments: dict[str, Metrics] = field(default_factory=dict[str, Metrics])
    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def train_full(
    dataset: Dataset,
    config: ModelConfig,
    parent: Parent,
    *,
    progress: Progress | None = None,
) -> TrainedModel:
    """Go on from a parent with the interactions since its end.

    Args:
        dataset: Everything, as for a training from the start: histories, what users
            have met and popularity need it.
        config: The model's configuration.
        parent: The version to go on from.
        progress: Receives the stages; None is silence.

    Raises:
        TrainingError: Nothing came since, ``train.dim`` has changed, or queries are no
            means of histories.
    """
    started = time.perf_counter()
    progress = progress or SILENT
    _check(config, parent)
    health.check_size(dataset, config.train.dim)
    new = dataset.time >= parent.until
    if not (new & (dataset.weight > 0)).any():
        raise TrainingError(
            f"nothing came since version {parent.number} was trained",
            hint="There is nothing to go on with.",
        )
    kept = _kept(dataset, config.update.evict_days)
    rows = _rows(dataset, kept, dataset.until, config)
    findings = health.check(dataset, rows)
    for finding in findings:
        logger.warning("%s", finding.message)
    settings = _settings(config, parent)
    with progress.stage("choose the step", total=len(SHARES)) as stage:
        chosen = _choose(dataset, config, parent, kept & new, kept & ~new, settings,
                         stage.advance)  # fmt: skip
    chosen_at = time.perf_counter()
    initial, admitted, fresh = _initial(dataset, rows, parent, config, settings)
    with progress.stage("fit", total=1) as stage:
        losses: list[float] = []
        step = replace(settings, lr=settings.lr * chosen.share)
        towers = _fit(dataset, rows, kept & new, step, initial, config, losses)
        stage.advance()
    fitted_at = time.perf_counter()
    lean = float(parent.settings.get("lean", 0.0))
    how = Finish(settings, chosen.trend, lean, parent.level)
    model = finish(dataset, rows, towers, config, how)
    done = time.perf_counter()
    model.report.update(
        # With the whole step: the next update tries shares of it again.
        settings=how.said(1),
        validation=chosen.validation,
        segments=chosen.segments,
        samples=chosen.samples,
        curves=[{"run": 0, "epoch": n + 1, "train_loss": loss}
                for n, loss in enumerate(losses)],
        data={
            "users": len(dataset.user_ids),
            "items": len(dataset.item_ids),
            "trained_items": len(rows.items),
            "interactions": len(dataset),
            "new_interactions": int(new.sum()),
            "dropped": dataset.dropped,
            "until": dataset.until,
        },
        timing={
            "choose_s": chosen_at - started,
            "fit_s": fitted_at - chosen_at,
            "export_s": done - fitted_at,
        },
        seed=config.train.seed,
        warnings=[finding.to_dict() for finding in findings],
        cold={"quantile": parent.level},
        full={
            "parent": parent.number,
            "since": parent.until,
            "step": chosen.share,
            "tried": chosen.tried,
            "admitted": admitted,
            "evicted": _evicted(dataset, rows, parent),
            "fresh": fresh,
        },
    )  # fmt: skip
    return model


def _check(config: ModelConfig, parent: Parent) -> None:
    """Refuse what a full update cannot go on from, or could not arrive at."""
    if parent.served.shape[1] != config.train.dim:
        raise TrainingError(
            f"version {parent.number} has {parent.served.shape[1]} dimensions,"
            f" train.dim is {config.train.dim}",
            hint="Train from the start: leave out --full.",
        )
    if parent.query.beyond_mean:
        raise TrainingError(
            f"version {parent.number} makes its queries with"
            f" {parent.query.beyond_mean}: a full update goes on from a mean alone",
            hint='Train from the start, or set query.encoder = "mean" and train once.',
        )
    if config.query.beyond_mean:
        raise TrainingError(
            f"recsys.toml asks for {config.query.beyond_mean}: a full update makes its"
            " queries by a mean alone",
            hint='Train from the start, or set query.encoder = "mean" and'
            ' query.interests_from = "clusters".',
        )


def _kept(dataset: Dataset, evict_days: float) -> NDArray[np.bool_]:
    """Mark the interactions with items that keep, or get, a learned row."""
    if not evict_days or dataset.until is None:
        return np.ones(len(dataset), np.bool_)
    latest = np.full(len(dataset.item_ids), -np.inf)
    np.maximum.at(latest, dataset.item, np.nan_to_num(dataset.time, nan=-np.inf))
    return (latest >= dataset.until - evict_days * _DAY_S)[dataset.item]


def _evicted(dataset: Dataset, rows: QueryRows, parent: Parent) -> int:
    left = set(_ids(dataset, rows))
    return sum(item not in left for item in parent.item_ids)


def _ids(dataset: Dataset, rows: QueryRows) -> list[ItemId]:
    """Return the ids of the trained items, shape (T,)."""
    places: list[int] = rows.items.tolist()
    return [dataset.item_ids[place] for place in places]


def _settings(config: ModelConfig, parent: Parent) -> Settings:
    """Return the parent's hyper-parameters where the configuration fixes none."""
    settings = first_settings(config)
    known = {
        name: float(parent.settings[name])
        for name in _LEARNED
        if name in parent.settings
    }
    if config.train.tau:
        known.pop("tau", None)
    if config.train.dropout >= 0:
        known.pop("dropout", None)
    if config.train.companions >= 0:
        known.pop("companions", None)
    if config.train.recent_beta >= 0:
        known.pop("recent_beta", None)
    query = replace(config.query, encoder="mean")
    return replace(settings, query=query, **known)


def _choose(
    dataset: Dataset,
    config: ModelConfig,
    parent: Parent,
    new: NDArray[np.bool_],
    old: NDArray[np.bool_],
    settings: Settings,
    advance: Any,
) -> _Chosen:
    """Try the steps on the older part of the news, and judge them on the newest."""
    trends = grid(settings.tau, settings.beta, timed=True)
    cut = float(np.quantile(dataset.time[new], 1 - _NEWEST, method="lower"))
    older = new & (dataset.time < cut)
    learnable = (older & (dataset.weight > 0)).any()
    slice_: Split | None = judged(dataset, old | older, cut) if learnable else None
    if slice_ is None or not len(slice_.users):
        logger.warning("no user of the news can be validated on")
        return _Chosen(SHARES[-1], trends[-1], {}, [])
    rows = _rows(dataset, slice_.train, cut, config)
    judge = Judge(dataset, rows, slice_, config.train.seed)
    biases = torch.stack([bias(trend, rows.pop, rows.decayed) for trend in trends])
    initial, *_ = _initial(dataset, rows, parent, config, settings)
    tried: list[dict[str, float]] = []
    best: tuple[float, int, dict[str, float]] | None = None
    lists = np.zeros((0, 0), np.int64)
    for share in SHARES:
        towers = _fit(dataset, rows, older, replace(settings, lr=settings.lr * share),
                      initial, config, [])  # fmt: skip
        metrics = judge.score(towers, biases)
        score, place = max((score_of(m), i) for i, m in enumerate(metrics))
        tried.append({"step": share, **metrics[place]})
        if best is None or score > best[0]:
            best = (score, place, {**metrics[place], "step": share})
            lists = judge.rank(towers, biases[place].unsqueeze(0))[0]
        advance(1, f"step {share:g}")
    assert best is not None
    still = _towers(dataset, initial["served"], config, settings)
    still.set_weights(initial)
    before = max(judge.score(still, biases), key=score_of)
    found = dict(best[2])
    share = found.pop("step")
    told = validated(
        dataset, rows, slice_, judge, lists, {"model": found, "parent": before}
    )
    return _Chosen(
        share=share,
        trend=trends[best[1]],
        validation=told.metrics,
        tried=tried,
        segments=told.segments,
        samples=told.samples,
    )


def _fit(
    dataset: Dataset,
    rows: QueryRows,
    chosen: NDArray[np.bool_],
    settings: Settings,
    initial: Weights,
    config: ModelConfig,
    losses: list[float],
) -> Towers:
    """Learn once from some of the interactions, from the given weights."""
    return fit(
        dataset,
        _only(dataset, rows, chosen, config),
        settings,
        1,
        config.train.seed,
        torch.from_numpy(initial["served"]),
        lambda epoch, _: losses.append(epoch.loss) or False,
        initial=initial,
    )


def _rows(
    dataset: Dataset, keep: NDArray[np.bool_], end: float | None, config: ModelConfig
) -> QueryRows:
    train = config.train
    half_life_s = train.half_life_days * _DAY_S
    return query_rows(dataset, keep, end, train.history, half_life_s)


def _only(
    dataset: Dataset, rows: QueryRows, chosen: NDArray[np.bool_], config: ModelConfig
) -> QueryRows:
    """Return the rows with some of the interactions as targets, all as history."""
    part = _rows(dataset, chosen, dataset.until, config)
    item = torch.from_numpy(np.searchsorted(rows.items, part.items))
    user = torch.from_numpy(np.searchsorted(rows.users, part.users))
    targets = part.targets
    return replace(
        rows,
        user=user[part.user],
        context=part.context,
        # One bias for all of them: the news are of one time.
        periods=None,
        targets=Ragged(targets.start, item[targets.values], targets.weight),
    )


def _initial(
    dataset: Dataset,
    rows: QueryRows,
    parent: Parent,
    config: ModelConfig,
    settings: Settings,
) -> tuple[Weights, int, list[str]]:
    """Return weights to start from, how many items are new, and what starts anew."""
    served, history, known = learned_rows(parent, _ids(dataset, rows))
    if dataset.items is None and not known.all():
        direction = _direction(rows, history, known)
        served[~known] = direction[~known] * _usual(served[known])
        history[~known] = direction[~known] * _usual(history[known])
    towers = _towers(dataset, served, config, settings)
    initial: dict[str, NDArray[np.float32]] = {"served": served, "history": history}
    weights, fresh = carried_weights(parent, towers, dataset)
    if fresh:
        logger.warning("weights that start anew: %s", ", ".join(fresh))
    return {**initial, **weights}, int((~known).sum()), fresh


def _towers(
    dataset: Dataset,
    served: NDArray[np.float32],
    config: ModelConfig,
    settings: Settings,
) -> Towers:
    """Return towers as a training from the start begins with them."""
    return Towers(
        torch.from_numpy(served),
        dataset.items,
        dataset.users,
        dataset.contexts,
        torch.Generator().manual_seed(config.train.seed),
        settings.content,
    )


def _direction(
    rows: QueryRows, history: NDArray[np.float32], known: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return where those who met each item look, as unit vectors, shape (T, d)."""
    lists = rows.history
    owner = torch.repeat_interleave(lists.start.diff())
    table = torch.from_numpy(history)
    weight = lists.weight if lists.weight is not None else torch.ones(len(owner))
    weight = weight * torch.from_numpy(known)[lists.values]
    taste = torch.zeros(len(rows.users), table.shape[1])
    taste.index_add_(0, owner, table[lists.values] * weight.unsqueeze(1))
    taste = torch.nn.functional.normalize(taste, dim=1, eps=1e-12)
    out = torch.zeros(len(rows.items), table.shape[1])
    out.index_add_(0, lists.values.long(), taste[owner])
    return _array(torch.nn.functional.normalize(out, dim=1, eps=1e-12))


def _array(value: Tensor) -> NDArray[np.float32]:
    return value.numpy()


def _usual(some: NDArray[np.float32]) -> float:
    return float(np.median(np.linalg.norm(some, axis=1))) if len(some) else 1.0
