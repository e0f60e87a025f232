"""What the counts of an item are worth as its popularity dimension; numpy only.

Training chooses the weights and ``recsys.fresh`` computes the dimension again with the
counts of today: both by the one formula here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import embeddings
from recsys.config import IdType
from recsys.errors import ArtifactError
from recsys.types import ItemId

DAY_S = 86_400.0
HALF_LIVES_D = (1.0, 3.0, 10.0, 30.0)
"""Days after which what somebody chose counts half."""
PRIOR = 0.5
"""Added to every count: an item nobody chose lately is not infinitely bad."""

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trend:
    """Popularity dimension: a ln(pop) + sum over h of b_h ln(count_h + 1/2).

    Attributes:
        long_run: a, the weight of the users of all time.
        recent: b, one weight per half-life; empty without times.
    """

    long_run: float
    recent: tuple[float, ...] = ()

    def bias(self, pop: Float32Array, decayed: Float32Array | None) -> Float32Array:
        """Return the popularity dimension of T items, shape (T,).

        Args:
            pop: Users with taste for each, shape (T,).
            decayed: From ``decayed_counts``, shape (H, T); None without times.
        """
        out = np.float32(self.long_run) * np.log(np.maximum(pop, 1))
        if decayed is None or not self.recent:
            return out
        return out + np.array(self.recent, np.float32) @ np.log(decayed + PRIOR)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable copy; ``from_dict`` reads it back."""
        return {
            "long_run": self.long_run,
            "recent": list(self.recent),
            "half_lives_d": list(HALF_LIVES_D[: len(self.recent)]),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trend:
        """Rebuild what ``to_dict`` wrote, also after JSON."""
        return cls(float(data["long_run"]), tuple(map(float, data["recent"])))


def decayed_counts(
    item: NDArray[np.int64], time: NDArray[np.float64], items: int, end: float
) -> Float32Array:
    """Count events, each the less the older it is.

    Args:
        item: Item of each event, below ``items``.
        time: Its seconds since 1970; far in the past where unknown.
        items: Number of items, T.
        end: Ages count from here; what is later has none.

    Returns:
        One count per half-life and item, shape (H, T).
    """
    age = np.maximum(end - time, 0.0) / DAY_S
    return np.stack(
        [
            np.bincount(item, np.exp2(-age / half_life), minlength=items)
            for half_life in HALF_LIVES_D
        ]
    ).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the popularity dimension of a version was computed from.

    Attributes:
        item_ids: The trained items, T ids.
        pop: Users with taste for each, shape (T,), float32.
        decayed: Shape (H, T), float32.
        end: Seconds since 1970 from which ages were counted.
    """

    item_ids: Sequence[ItemId]
    pop: Float32Array
    decayed: Float32Array
    end: float

    def pack(self, id_type: IdType) -> bytes:
        """Return the counts as safetensors."""
        from safetensors.numpy import save

        tensors = {
            "pop": self.pop,
            "decayed": self.decayed,
            "end": np.array([self.end], np.float64),
            **embeddings.id_tensors(self.item_ids, id_type),
        }
        return save({k: np.ascontiguousarray(v) for k, v in tensors.items()})


def unpack(content: bytes, id_type: IdType) -> Counts:
    """Read what ``Counts.pack`` wrote.

    Raises:
        ArtifactError: It is not such a file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found = load(content)
        ids = embeddings.tensor_ids(found, id_type)
        return Counts(ids, found["pop"], found["decayed"], float(found["end"][0]))
    except (SafetensorError, KeyError, IndexError) as exc:
        raise ArtifactError(
            f"the popularity artifact cannot be read: {exc}", hint="Train again."
        ) from exc
