"""The proof that published towers are the fit.

They are run the way the database side runs them and compared with what torch gives: on
real rows, on edge rows, and after rounding to halfvec.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recsys._tower import ItemTower, QueryTower
from recsys.errors import ArtifactError
from recsys.training.dataset import Dataset
from recsys.training.evaluation import item_vectors
from recsys.training.features import EncodedSide, encode_rows
from recsys.training.model import Towers, array
from recsys.training.probes import edges, probe, repeated
from recsys.training.query import SequenceQuery
from recsys.training.ragged import Selection, join
from recsys.training.rows import QueryRows
from recsys.training.trained import Float32Array, TrainedModel

MOST_DIFFERENCE = 1e-4
LEAST_OVERLAP = 0.99
_PROBES = 256
_K = 20
# halfvec keeps 11 bits: scores this close may change places.
_TIE = 2e-3


@torch.no_grad()
def check_parity(
    model: TrainedModel,
    dataset: Dataset,
    rows: QueryRows,
    towers: Towers,
    history: int,
) -> dict[str, float]:
    """Compare the published towers with torch.

    Returns:
        The greatest difference of item vectors, history rows and queries, the overlap
        of the best items before and after rounding to halfvec, and the rows compared.

    Raises:
        ArtifactError: A difference or the overlap is out of bounds.
    """
    dim = model.id_served.shape[1]
    tower = ItemTower(model.item_tower, model.items.declared, dim)
    items = _compare_items(model, dataset, rows, towers, tower)
    query = QueryTower(
        model.query_tower,
        model.users.declared,
        model.contexts.declared,
        dim,
        sequential=isinstance(towers.taste, SequenceQuery),
    )
    queries, overlap = _compare_queries(model, dataset, rows, towers, query, history)
    found = {
        "item_difference": items,
        "query_difference": queries,
        "overlap": overlap,
        "rows": float(_PROBES),
    }
    worst = max(items, queries)
    if not worst <= MOST_DIFFERENCE:
        raise ArtifactError(
            f"the published towers differ from the trained ones by {worst:.2g}",
            hint="This is a defect of the export: nothing was published.",
        )
    if not overlap >= LEAST_OVERLAP:
        raise ArtifactError(
            f"only {overlap:.3f} of the best items survive rounding to halfvec",
            hint="Raise train.tau or lower train.lr: the item vectors are too close.",
        )
    return found


def _compare_items(
    model: TrainedModel,
    dataset: Dataset,
    rows: QueryRows,
    towers: Towers,
    tower: ItemTower,
) -> float:
    """Return the greatest difference over real items and edge rows."""
    worst = 0.0
    places, columns = probe(dataset.items, len(model.item_ids))
    sides: list[tuple[EncodedSide | None, NDArray[np.int64], dict[str, list[object]]]]
    sides = [(dataset.items, places, columns)]
    if dataset.items is not None:
        odd, count = edges(dataset.items)
        encoded = encode_rows("item", dataset.items.fitted, [(odd, count)])
        # Edge rows wear ID rows of real items, trained and not.
        sides.append((encoded, np.resize(places, count), odd))
    for number, (side, place, raw) in enumerate(sides):
        vector, history = tower.encode(
            raw,
            len(place),
            model.id_served[place],
            model.id_history[place],
            model.bias[place],
        )
        row = np.arange(len(place)) if number else place
        unit, from_history = _torch_items(towers, rows, place, side, row)
        cold = float(model.weights["cold_bias"])
        bias = np.nan_to_num(model.bias[place], nan=cold)
        worst = max(
            worst,
            _difference(vector, np.concatenate([unit, bias[:, None]], 1)),
            _difference(history, from_history),
        )
    return worst


def _torch_items(
    towers: Towers,
    rows: QueryRows,
    place: NDArray[np.int64],
    side: EncodedSide | None,
    row: NDArray[np.int64],
) -> tuple[Float32Array, Float32Array]:
    """Return the unit vectors and history rows that torch gives.

    Args:
        towers: The fit.
        rows: What it was fitted to.
        place: Items whose ID rows are worn, shape (n,).
        side: Encoded content; None without features.
        row: Row of ``side`` of each, shape (n,).
    """
    known = np.isin(place, rows.items)
    local = torch.from_numpy(np.searchsorted(rows.items, place[known]))
    served, history = torch.zeros(2, len(place), towers.served.shape[1])
    served[torch.from_numpy(known)] = towers.served[local]
    history[torch.from_numpy(known)] = towers.history[local]
    if towers.item is not None and towers.history_weight is not None:
        assert side is not None
        content = towers.item.encode(side)[torch.from_numpy(row)]
        served = served + content
        history = history + content @ towers.history_weight
    return array(F.normalize(served, dim=1, eps=1e-12)), array(history)


def _compare_queries(
    model: TrainedModel,
    dataset: Dataset,
    rows: QueryRows,
    towers: Towers,
    tower: QueryTower,
    history: int,
) -> tuple[float, float]:
    """Return the greatest difference of the queries and the overlap after rounding."""
    vectors = item_vectors(towers, rows)
    rng = np.random.default_rng(0)
    users, user_columns = probe(dataset.users, len(dataset.user_ids))
    contexts, context_columns = probe(dataset.contexts, 1)
    size = max(_PROBES, len(users), len(contexts))
    users, contexts = np.resize(users, size), np.resize(contexts, size)
    past = _with_moments(join(_histories(rows, users, history, rng)), towers, rng)
    expected = _torch_queries(dataset, towers, vectors.history, past, users, contexts)
    last = array(towers.lean.coordinate(torch.from_numpy(expected)))[..., None]
    table, weight = _padded(past, vectors.history)
    ages, kinds = _moments(past)
    feeds = (repeated(user_columns, size), repeated(context_columns, size))
    actual = tower.encode(table, weight, *feeds, ages, kinds)
    worst = _difference(actual, np.concatenate([expected, last], -1))
    for row, count in enumerate(past.counts[:8]):
        length = int(count)
        single = tower.encode_one(
            table[row, :length],
            weight[row, :length],
            {name: cells[row] for name, cells in feeds[0].items()},
            {name: cells[row] for name, cells in feeds[1].items()},
            ages[row, :length].tolist(),
            kinds[row, :length].tolist(),
        )
        worst = max(worst, _difference(single, actual[row]))

    bias = model.bias[rows.items][:, None]
    exact = np.concatenate([array(vectors.served), bias], 1)
    rounded = _half(exact)
    query = tower.encode(_half(table), weight, *feeds, ages, kinds)
    actual, query = (each.reshape(-1, each.shape[-1]) for each in (actual, query))
    return worst, _overlap(actual @ exact.T, _half(query) @ rounded.T)


def _histories(
    rows: QueryRows,
    users: NDArray[np.int64],
    most: int,
    rng: np.random.Generator,
) -> list[tuple[Tensor, Tensor]]:
    """Return histories and their weights, as long as serving reads them.

    The first three are edge rows: of nobody, of one item, and of the most.
    """
    known = np.searchsorted(rows.users, users).clip(max=len(rows.users) - 1)
    lists = [rows.history.entries(int(user)) for user in known]
    longest = torch.from_numpy(rng.integers(len(rows.items), size=most))
    lists[:3] = [
        (longest[:0], torch.ones(0)),
        (longest[:1], torch.full((1,), 0.5)),
        (longest, torch.from_numpy(rng.random(most).astype(np.float32) + 0.1)),
    ]
    return [(values[:most], weight[:most]) for values, weight in lists]


def _with_moments(
    history: Selection, towers: Towers, rng: np.random.Generator
) -> Selection:
    """Return histories with ages and kinds, known and not, where they matter."""
    if not isinstance(towers.taste, SequenceQuery):
        return history
    gaps = rng.exponential(30 * 86_400.0, len(history.values))
    # A sum within each list; the edges are none, all at once, and unknown.
    total = np.concatenate([[0.0], np.cumsum(gaps)])
    owner, start = history.owner.numpy(), history.start.numpy()
    age = total[1:] - total[start][owner]
    age[owner % 5 == 3] = -1.0
    age[owner % 5 == 4] = 60.0
    kinds = len(towers.taste.encoder.kind) - 1
    kind = rng.integers(kinds + 1, size=len(age))
    return replace(
        history,
        age=torch.from_numpy(age.astype(np.float32)),
        kind=torch.from_numpy(kind.astype(np.int64)),
    )


def _torch_queries(
    dataset: Dataset,
    towers: Towers,
    table: Tensor,
    history: Selection,
    users: NDArray[np.int64],
    contexts: NDArray[np.int64],
) -> Float32Array:
    taste, empty = towers.taste(table, history), history.counts == 0
    context = None if dataset.contexts is None else torch.from_numpy(contexts)
    query = towers.query(taste, empty, torch.from_numpy(users), context)
    return array(query)


def _padded(history: Selection, table: Tensor) -> tuple[Float32Array, Float32Array]:
    """Return rows and weights of histories as the published tower takes them."""
    place, shape = _cells(history)
    rows = np.zeros((*shape, table.shape[1]), np.float32)
    weights = np.zeros(shape, np.float32)
    rows[place] = table[history.values].numpy()
    weights[place] = history.weights(table).numpy()
    return rows, weights


def _moments(history: Selection) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return ages and kinds of histories likewise."""
    place, shape = _cells(history)
    ages, kinds = np.full(shape, -1.0), np.zeros(shape, np.int64)
    if history.age is not None and history.kind is not None:
        ages[place] = history.age.numpy()
        kinds[place] = history.kind.numpy()
    return ages, kinds


def _cells(
    history: Selection,
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], tuple[int, int]]:
    """Return list and place of each entry, and the shape of a table for them."""
    owner = history.owner.numpy()
    within = np.arange(len(owner)) - history.start.numpy()[owner]
    return (owner, within), (len(history.start), int(history.counts.max()))


def _half(values: Float32Array) -> Float32Array:
    return values.astype(np.float16).astype(np.float32)


def _difference(actual: Float32Array, expected: Float32Array) -> float:
    return float(np.abs(actual - expected).max(initial=0.0))


def _overlap(exact: Float32Array, rounded: Float32Array) -> float:
    """Return the share of the best items after rounding that are among the best."""
    k = min(_K, exact.shape[1])
    best = np.argpartition(-rounded, k - 1, axis=1)[:, :k]
    limit = -np.partition(-exact, k - 1, axis=1)[:, k - 1 : k]
    kept = np.take_along_axis(exact, best, 1) >= limit - _TIE
    return float(kept.mean())
