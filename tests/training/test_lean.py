from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import make_config

from recsys._tower import QueryTower
from recsys.training.dataset import Dataset
from recsys.training.export import export
from recsys.training.lean import Lean, fit_lean, no_lean
from recsys.training.loop import fit
from recsys.training.ragged import Selection, join
from recsys.training.rows import query_rows
from recsys.training.settings import Settings
from recsys.training.svd import first_rows


def histories() -> tuple[torch.Tensor, Selection, torch.Tensor]:
    """Queries near one axis or the other; those of the second have popular items."""
    generator = torch.Generator().manual_seed(0)
    second = torch.arange(200) % 2
    queries = torch.nn.functional.one_hot(second, 4).float()
    queries += 0.1 * torch.randn(200, 4, generator=generator)
    bias = torch.tensor([0.1, 0.3])
    lists = [(side.repeat(3), torch.tensor([1.0, 2.0, 1.0])) for side in second]
    return queries / queries.norm(dim=1, keepdim=True), join(lists), bias


def test_popularity_counts_more_where_histories_are_popular() -> None:
    queries, history, bias = histories()

    last = fit_lean(queries, history, bias, 0.2).coordinate(queries)

    assert last.mean().item() == pytest.approx(1, abs=1e-4)
    assert last.std().item() == pytest.approx(0.2, abs=1e-3)
    assert last[1::2].min() > last[::2].max()


@pytest.mark.parametrize("strength", [0.0, 0.2])
def test_without_anything_to_read_off_popularity_counts_the_same(
    strength: float,
) -> None:
    queries, history, bias = histories()
    same = torch.full_like(bias, 0.2)

    lean = fit_lean(queries, history, same if strength else bias, strength)

    assert torch.allclose(lean.coordinate(queries), torch.ones(200), atol=1e-3)


def test_empty_histories_are_left_out() -> None:
    _, _, bias = histories()
    nothing = (torch.empty(0, dtype=torch.long), torch.empty(0))
    lists = [nothing, nothing]
    odd = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])

    alone = fit_lean(odd, join(lists), bias, 0.2)

    assert torch.equal(alone.coordinate(odd), torch.ones(2))


def test_the_published_query_tower_leans_as_torch_does() -> None:
    users = [user for user in range(30) for _ in range(4)]
    items = [(user * 3 + step) % 20 for user in range(30) for step in range(4)]
    dataset = Dataset.from_arrays(make_config(), users, items)
    rows = query_rows(dataset, np.ones(len(dataset), bool), None, history=32)
    settings = Settings(8, 0.15, 0.3, 0.5, 6e-3, 32, 32, 0.15)
    towers = fit(dataset, rows, settings, 1, 0, first_rows(rows, 8, 0))
    assert torch.equal(towers.lean.weight, no_lean(towers.served).weight)
    towers.lean = Lean(torch.linspace(-1, 1, 8), torch.tensor(0.25))

    model = export(dataset, rows, towers, 0.1 * rows.pop.log(), history=32)

    tower = QueryTower(model.query_tower, (), (), 8)
    row = np.linspace(0, 1, 8, dtype=np.float32)
    found = tower.encode_one(row[None], np.ones(1, np.float32))
    unit = row / np.linalg.norm(row)
    assert found[:8] == pytest.approx(unit, abs=1e-5)
    expected = 1.25 + unit @ np.linspace(-1, 1, 8)
    assert found[8] == pytest.approx(expected, abs=1e-5)
