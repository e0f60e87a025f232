"""Turning both towers so that what tells items apart comes first.

A rotation of items and queries changes no score. The one to the principal axes of both
makes the first dimensions the best ones to keep: an index over a prefix, or over signs,
then finds the same items with far fewer candidates. It costs a product of small
matrices after the fit, and nothing when serving, because the weights themselves are
turned. Towers whose encoder is more than a mean of rows are left as they are.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from recsys.training.content import Content
from recsys.training.evaluation import item_vectors, queries
from recsys.training.model import Towers
from recsys.training.query import MeanQuery
from recsys.training.rows import QueryRows

_USERS = 4_096


@torch.no_grad()
def rotate(towers: Towers, rows: QueryRows) -> bool:
    """Turn the towers to the principal axes of items and queries, in place.

    Args:
        towers: A fit.
        rows: What it was fitted to.

    Returns:
        Whether they were turned; not where an encoder does not turn with its rows.
    """
    if not _turns(towers):
        return False
    turn = _axes(towers, rows)
    for rows_like in (towers.served, towers.history, towers.default_query):
        rows_like.copy_(rows_like @ turn)
    if towers.history_weight is not None:
        towers.history_weight.copy_(turn.T @ towers.history_weight @ turn)
    for content in _contents(towers):
        for out in (
            *content.tables,
            content.dense_weight,
            content.dense_bias,
            content.w2,
        ):
            out.copy_(out @ turn)
        content.w1.copy_(turn.T @ content.w1)
    return True


def _turns(towers: Towers) -> bool:
    crossed = any(content.cross.layers for content in _contents(towers))
    return type(towers.taste) is MeanQuery and not crossed


def _contents(towers: Towers) -> list[Content]:
    sides = (towers.item, towers.user, towers.context)
    return [side for side in sides if side is not None]


def _axes(towers: Towers, rows: QueryRows) -> Tensor:
    """Return the axes as columns, the one with the most of the vectors first; (d, d).

    Half of the weight is the queries': a direction of items that no query has decides
    nothing.
    """
    vectors = item_vectors(towers, rows)
    every = max(1, len(rows.users) // _USERS)
    users = torch.arange(0, len(rows.users), every, device=vectors.served.device)
    asked = queries(towers, rows, vectors, users, None)
    moment = _moment(vectors.served) + _moment(asked)
    axes = cast(Tensor, torch.linalg.eigh(moment)[1]).flip(1)
    # An axis has no sign of its own: its greatest part is positive.
    greatest = axes.abs().argmax(0, keepdim=True)
    return (axes * axes.gather(0, greatest).sign()).float()


def _moment(vectors: Tensor) -> Tensor:
    """Return the mean of the outer products; (d, d)."""
    exact = vectors.double()
    return exact.T @ exact / len(exact)
