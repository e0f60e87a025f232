"""How a fit feels: gradients, updates and embeddings, looked at a few times.

Cheap: a dozen looks per fit, at most a few thousand rows of a table each. What they
mean is said by ``recsys.report.verdict``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.training.model import Towers, array

_LOOKS = 12
_ROWS = 4096
_PAIRS = 1024
# A row this much shorter than the median one says nothing.
_DEAD = 0.01


class Health:
    """Observes a fit; pass ``observe`` to it and ``epoch`` to its callback."""

    def __init__(self, epochs: int) -> None:
        self._every = max(1, math.ceil(epochs / _LOOKS))
        self._epoch = 1
        self._due = True
        self._before: dict[str, list[Tensor]] = {}
        self._found: dict[str, float] = {}
        self.gradients: list[dict[str, Any]] = []
        self.embeddings: list[dict[str, Any]] = []

    @torch.no_grad()
    def observe(self, step: int, towers: Towers, loss: Tensor) -> None:
        """Look at one step when it is time, and at the change that the next makes."""
        del loss
        if self._before:
            self._updates(step, towers)
            self._before = {}
        elif self._due:
            self._due = False
            for name, parameters in _groups(towers).items():
                self._found[name] = _norm([_gradient(p) for p in parameters])
                self._before[name] = [_some(p).clone() for p in parameters]

    @torch.no_grad()
    def epoch(self, number: int, towers: Towers, *, last: bool) -> None:
        """Look at the embeddings after an epoch when it is time."""
        self._epoch = number + 1
        if number % self._every and not last:
            return
        self._due = True
        for name, table in (("served", towers.served), ("history", towers.history)):
            self.embeddings.append(
                {"epoch": number, "table": name, **embedding_health(_some(table))}
            )

    def _updates(self, step: int, towers: Towers) -> None:
        for name, parameters in _groups(towers).items():
            old = self._before.get(name)
            if old is None:
                continue
            change = _norm([_some(p) - o for p, o in zip(parameters, old, strict=True)])
            weight = _norm(old)
            self.gradients.append(
                {
                    "step": step,
                    "epoch": self._epoch,
                    "group": name,
                    "gradient": self._found[name],
                    "weight": weight,
                    "update": change / weight if weight else 0.0,
                }
            )


@torch.no_grad()
def embedding_health(rows: Tensor) -> dict[str, float]:
    """Return norms and directions of some embedding rows.

    Args:
        rows: Shape (n, d).

    Returns:
        Mean, 1st and 99th percentile of the norms; the share of dead rows; the mean
        cosine of pairs, 1 when all point the same way; the effective rank, e to the
        entropy of the spectrum of the unit rows, from 1 to d.
    """
    found = array(rows.cpu())
    norms = np.linalg.norm(found, axis=1)
    low, middle, high = (float(mark) for mark in np.quantile(norms, (0.01, 0.5, 0.99)))
    alive = norms > _DEAD * middle
    unit = found[alive][:_PAIRS] / norms[alive][:_PAIRS, None]
    n = len(unit)
    pairs = float(np.square(unit.sum(0)).sum()) - n
    spectrum = np.square(np.linalg.svd(unit, compute_uv=False)) if n else np.ones(1)
    share = spectrum / spectrum.sum()
    entropy = -float((share * np.log(share.clip(min=1e-12))).sum())
    return {
        "mean": float(norms.mean()),
        "p1": low,
        "p99": high,
        "dead": 1.0 - float(alive.mean()),
        "cosine": pairs / (n * (n - 1)) if n > 1 else 0.0,
        "rank": math.exp(entropy),
        "items": float(n),
        "dim": float(found.shape[1]),
    }


def _groups(towers: Towers) -> dict[str, list[Tensor]]:
    """Return the parameters by what they are part of."""
    out: dict[str, list[Tensor]] = {}
    for name, parameter in towers.named_parameters():
        if parameter.numel():
            out.setdefault(name.partition(".")[0], []).append(parameter)
    return out


def _gradient(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros(1)
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _some(parameter: Tensor) -> Tensor:
    """Return rows spread evenly over a table, at most a few thousand."""
    if parameter.dim() < 2 or len(parameter) <= _ROWS:
        return parameter.detach()
    places = torch.linspace(0, len(parameter) - 1, _ROWS, device=parameter.device)
    return parameter.detach()[places.long()]


def _norm(parts: list[Tensor]) -> float:
    return math.sqrt(sum(float(part.square().sum()) for part in parts))
