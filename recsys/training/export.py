"""Publishing a fit: ONNX towers, ID embeddings, and the proof that they are the fit.

Nothing leaves here before the towers, run the way the database side runs them, gave
what torch gives: on real rows, on edge rows, and after rounding to halfvec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recsys._query_config import QueryConfig
from recsys._tower import ItemTower, QueryTower
from recsys.encoder.fit import FittedSide
from recsys.encoder.towers import item_tower, query_tower
from recsys.errors import ArtifactError
from recsys.popularity import Counts, Trend
from recsys.training.cold import MEDIAN
from recsys.training.dataset import Dataset
from recsys.training.evaluation import item_vectors
from recsys.training.features import EncodedSide, encode_rows
from recsys.training.model import Towers, array
from recsys.training.query import SequenceQuery
from recsys.training.ragged import Selection, join
from recsys.training.rows import QueryRows
from recsys.types import ItemId

MOST_DIFFERENCE = 1e-4
LEAST_OVERLAP = 0.99
_PROBES = 256
_K = 20
# halfvec keeps 11 bits: scores this close may change places.
_TIE = 2e-3

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """Everything a version consists of.

    Attributes:
        item_ids: Every item of the source, N ids.
        id_served: Served ID rows, 0 where not trained, shape (N, d), float32.
        id_history: History-side ID rows, likewise, shape (N, d), float32.
        bias: Popularity dimension, NaN where not trained, shape (N,), float32.
        trained: Marks the items with taste, which have an ID row, shape (N,), bool.
        weights: All other weights, by the names in ``recsys.encoder.towers``.
        items: Fitted item features; empty when none are declared.
        users: Fitted user features, likewise.
        contexts: Fitted context features, likewise.
        item_tower: ONNX.
        query_tower: ONNX.
        report: JSON-serialisable: settings, validation, curves, data, timing, parity.
        trend: Weights of the popularity dimension; None where it does not age.
        counts: What it was computed from; None where it does not age.
        query: How its queries are made.
    """

    item_ids: Sequence[ItemId]
    id_served: Float32Array
    id_history: Float32Array
    bias: Float32Array
    trained: NDArray[np.bool_]
    weights: Mapping[str, Float32Array]
    items: FittedSide
    users: FittedSide
    contexts: FittedSide
    item_tower: bytes
    query_tower: bytes
    report: dict[str, Any]
    trend: Trend | None = None
    counts: Counts | None = None
    query: QueryConfig = field(default_factory=lambda: QueryConfig(encoder="mean"))

    @property
    def dim(self) -> int:
        """Length of the unit vectors."""
        return self.id_served.shape[1]


@torch.no_grad()
def export(
    dataset: Dataset,
    rows: QueryRows,
    towers: Towers,
    bias: Tensor,
    history: int,
    cold: float = MEDIAN,
) -> TrainedModel:
    """Compile the towers and check them.

    Args:
        dataset: All the data.
        rows: What the towers were fitted to.
        towers: The fit.
        bias: Popularity dimension of the trained items, shape (T,).
        history: Greatest history length when serving.
        cold: Quantile of ``bias`` that items without a learned row get.

    Returns:
        The model; its report holds ``parity`` only.

    Raises:
        ArtifactError: The published towers do not compute what torch computes.
    """
    count, dim = len(dataset.item_ids), towers.served.shape[1]
    trained = np.zeros(count, np.bool_)
    trained[rows.items] = True
    id_served = np.zeros((count, dim), np.float32)
    id_history = np.zeros((count, dim), np.float32)
    all_bias = np.full(count, np.nan, np.float32)
    id_served[rows.items] = array(towers.served)
    id_history[rows.items] = array(towers.history)
    all_bias[rows.items] = array(bias)
    weights = towers.weights()
    weights["cold_bias"] = np.array(np.quantile(all_bias[trained], cold), np.float32)
    fitted = [_fitted(s) for s in (dataset.items, dataset.users, dataset.contexts)]
    model = TrainedModel(
        item_ids=dataset.item_ids,
        id_served=id_served,
        id_history=id_history,
        bias=all_bias,
        trained=trained,
        weights=weights,
        items=fitted[0],
        users=fitted[1],
        contexts=fitted[2],
        item_tower=item_tower(dim, fitted[0], weights),
        query_tower=query_tower(dim, fitted[1], fitted[2], weights),
        report={},
    )
    model.report["parity"] = check_parity(model, dataset, rows, towers, history)
    return model


def warm_start_artifact(model: TrainedModel) -> bytes:
    """Return the towers' weights in float32 as safetensors.

    With the rows of the embeddings artifact a next fit can start from them.
    """
    from safetensors.numpy import save

    tensors = {name: np.asarray(v, order="C") for name, v in model.weights.items()}
    return save(tensors)


def _fitted(side: EncodedSide | None) -> FittedSide:
    return side.fitted if side is not None else FittedSide()


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
    places, columns = _probe(dataset.items, len(model.item_ids))
    sides: list[tuple[EncodedSide | None, NDArray[np.int64], dict[str, list[object]]]]
    sides = [(dataset.items, places, columns)]
    if dataset.items is not None:
        edges = _edges(dataset.items)
        # Edge rows wear ID rows of real items, trained and not.
        places_of_edges = np.resize(places, _height(edges))
        encoded = encode_rows(
            "item", dataset.items.fitted, [(edges, len(places_of_edges))]
        )
        sides.append((encoded, places_of_edges, edges))
    for number, (side, place, raw) in enumerate(sides):
        vector, history = tower.encode(
            raw,
            len(place),
            model.id_served[place],
            model.id_history[place],
            model.bias[place],
        )
        known = np.isin(place, rows.items)
        local = torch.from_numpy(np.searchsorted(rows.items, place[known]))
        served, from_history = torch.zeros(2, len(place), towers.served.shape[1])
        served[torch.from_numpy(known)] = towers.served[local]
        from_history[torch.from_numpy(known)] = towers.history[local]
        if towers.item is not None and towers.history_weight is not None:
            assert side is not None
            content = towers.item.encode(side)
            content = content if number else content[torch.from_numpy(place)]
            served = served + content
            from_history = from_history + content @ towers.history_weight
        cold = float(model.weights["cold_bias"])
        bias = np.nan_to_num(model.bias[place], nan=cold)
        unit = array(F.normalize(served, dim=1, eps=1e-12))
        worst = max(
            worst,
            _difference(vector, np.concatenate([unit, bias[:, None]], 1)),
            _difference(history, array(from_history)),
        )
    return worst


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
    users, user_columns = _probe(dataset.users, len(dataset.user_ids))
    contexts, context_columns = _probe(dataset.contexts, 1)
    size = max(_PROBES, len(users), len(contexts))
    users, contexts = np.resize(users, size), np.resize(contexts, size)
    known = np.searchsorted(rows.users, users).clip(max=len(rows.users) - 1)
    lists = [rows.history.entries(int(user)) for user in known]
    # Edge rows: nobody, one item, and as many as serving reads.
    longest = torch.from_numpy(rng.integers(len(rows.items), size=history))
    lists[:3] = [
        (longest[:0], torch.ones(0)),
        (longest[:1], torch.full((1,), 0.5)),
        (longest, torch.from_numpy(rng.random(history).astype(np.float32) + 0.1)),
    ]
    lists = [(values[:history], weight[:history]) for values, weight in lists]
    past = _with_moments(join(lists), towers, rng)
    expected = _torch_queries(dataset, towers, vectors.history, past, users, contexts)
    last = array(towers.lean.coordinate(torch.from_numpy(expected)))[..., None]
    length = max(len(part) for part, _ in lists)
    table, weight = _padded(lists, vectors.history, length)
    ages, kinds = _moments(past, length)
    feeds = (_repeated(user_columns, size), _repeated(context_columns, size))
    actual = tower.encode(table, weight, *feeds, ages, kinds)
    worst = _difference(actual, np.concatenate([expected, last], -1))
    for row in range(min(8, size)):
        single = tower.encode_one(
            table[row, : len(lists[row][0])],
            weight[row, : len(lists[row][0])],
            {name: cells[row] for name, cells in feeds[0].items()},
            {name: cells[row] for name, cells in feeds[1].items()},
            ages[row, : len(lists[row][0])].tolist(),
            kinds[row, : len(lists[row][0])].tolist(),
        )
        worst = max(worst, _difference(single, actual[row]))

    bias = model.bias[rows.items][:, None]
    exact = np.concatenate([array(vectors.served), bias], 1)
    rounded = _half(exact)
    query = tower.encode(_half(table), weight, *feeds, ages, kinds)
    actual, query = (each.reshape(-1, each.shape[-1]) for each in (actual, query))
    return worst, _overlap(actual @ exact.T, _half(query) @ rounded.T)


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


def _moments(
    history: Selection, length: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return ages and kinds of histories as the published tower takes them."""
    ages = np.full((len(history.start), length), -1.0)
    kinds = np.zeros(ages.shape, np.int64)
    if history.age is not None and history.kind is not None:
        owner = history.owner.numpy()
        within = np.arange(len(owner)) - history.start.numpy()[owner]
        ages[owner, within] = history.age.numpy()
        kinds[owner, within] = history.kind.numpy()
    return ages, kinds


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


def _padded(
    lists: list[tuple[Tensor, Tensor]], table: Tensor, length: int
) -> tuple[Float32Array, Float32Array]:
    rows = np.zeros((len(lists), length, table.shape[1]), np.float32)
    weights = np.zeros((len(lists), length), np.float32)
    for place, (part, weight) in enumerate(lists):
        rows[place, : len(part)] = table[part].numpy()
        weights[place, : len(part)] = weight.numpy()
    return rows, weights


def _probe(
    side: EncodedSide | None, count: int
) -> tuple[NDArray[np.int64], dict[str, list[object]]]:
    """Return encoded rows and their raw columns."""
    if side is None:
        every = max(1, count // (2 * _PROBES))
        return np.arange(0, count, every, dtype=np.int64), {}
    return side.probe.row, side.probe.columns


def _edges(side: EncodedSide) -> dict[str, list[object]]:
    """Return raw rows at the edges: missing, never seen, and extreme values."""
    odd: dict[str, list[object]] = {
        "category": [None, "", "\u2603 never seen", "x" * 10_000],
        "categories": [None, "", "\u2603\x1fnever seen", "\x1f".join("abc" * 300)],
        "text": [None, "", "\u05e9\u05dc\u05d5\u05dd \U0001f600", "word " * 5_000],
        "number": [None, float("nan"), float("inf"), -1e30],
        "time": [None, float("nan"), 0.0, 1e12],
        "vector": [None, None, None, None],
    }
    return {
        feature.name: odd["vector" if feature.is_vector else feature.type]
        for feature in side.fitted.declared
    }


def _height(columns: Mapping[str, Sequence[object]]) -> int:
    return len(next(iter(columns.values())))


def _repeated(
    columns: Mapping[str, Sequence[object]], size: int
) -> dict[str, list[object]]:
    return {
        name: [cells[row % len(cells)] for row in range(size)]
        for name, cells in columns.items()
    }


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
