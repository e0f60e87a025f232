"""What the HNSW index of a version is built over: the stored vectors, or less of them.

A stored item vector is a unit direction of ``dim`` numbers and, last, popularity; a
query vector is a unit direction and the weight of popularity, 1 or, for similar items,
0. A shorter key keeps popularity, because the score has it:

    prefix    (v_1 .. v_p, popularity), inner product: the score without its tail
    binary    the signs of v_1 .. v_p and a thermometer of popularity, Hamming distance

Bits: unit vectors at an angle t differ in about p t / pi of their signs, so that one
unit of score is worth about p / (pi sin t) bits. The thermometer has a bit for each of
so many steps of popularity: the query has all of them set, and misses those that the
item has not reached. A query without popularity has every second one set: then each
item differs in half of them, and none is preferred.

What such an index finds is re-ranked by the whole vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recsys.config import IndexConfig, ModelConfig
from recsys.ids import collation

_LEVELS_FROM, _LEVELS_TO = -1.0, 1.0
"""Popularity beyond is cut off for the choice of candidates, never for the score."""
_SINE = 0.8
"""Of the angle between a query and what is near it."""


@dataclass(frozen=True, slots=True)
class IndexKey:
    """The key of an index, as SQL.

    Attributes:
        item: Expression with ``{v}`` for a stored vector; what the index is built over.
        query: The same for a query vector.
        operator: Orders by distance.
        operator_class: Of the index.
        size: Bytes of a key.
        whole: Whether the key is the stored vector; else its order is provisional.
    """

    item: str
    query: str
    operator: str
    operator_class: str
    size: int
    whole: bool

    def distance(self, item: str, query: str) -> str:
        """Return the SQL that the index is ordered by.

        Args:
            item: SQL of a stored vector, such as "v.embedding".
            query: SQL of a query vector, the same for all rows.
        """
        return (
            f"{self.item.format(v=item)} {self.operator} {self.query.format(v=query)}"
        )


def provisional(config: ModelConfig) -> bool:
    """Return whether the index is over less than the stored vectors."""
    short = 0 < config.index.prefix < config.train.first_dim
    return short or config.index.quantisation != "none"


def effort(config: ModelConfig, ef_search: int, k: int) -> int:
    """Return the candidates that the index keeps for a list of ``k`` places.

    Where they are re-ranked, the search itself takes more of them for a longer list.

    Args:
        config: Of the version.
        ef_search: Calibrated, for 20 places.
        k: List length.
    """
    return ef_search if provisional(config) else max(ef_search, min(1000, 2 * k))


def index_key(index: IndexConfig, dim: int) -> IndexKey:
    """Return the key that a version's index is built over.

    Args:
        index: Of the version.
        dim: Length of the unit direction, without popularity.
    """
    kept = index.prefix or dim
    if index.quantisation == "binary":
        return _binary(kept, dim)
    if kept == dim:
        return IndexKey("{v}", "{v}", "<#>", "halfvec_ip_ops", 8 + 2 * dim + 2, True)
    short = (
        f"(subvector({{v}}, 1, {kept}) || subvector({{v}}, {dim + 1}, 1))"
        f"::halfvec({kept + 1})"
    )
    return IndexKey(short, short, "<#>", "halfvec_ip_ops", 8 + 2 * kept + 2, False)


def ordering(config: ModelConfig) -> dict[str, Any]:
    """Return what recsys._candidates must know of an index over less than vectors."""
    key = index_key(config.index, config.train.dim)
    if key.whole:
        return {}
    by = {
        "item": key.item.format(v="v.embedding"),
        "operator": key.operator,
        "query": key.query.format(v="$1"),
    }
    return {"ordering": by}


def near(config: ModelConfig, suffix: str) -> str:
    """Return the SQL of the candidates that the index gives: item_id, distance.

    Where the index is over less than the whole vectors, those that it finds are
    re-ranked, and more of them for a longer list.
    """
    key = index_key(config.index, config.train.dim)
    lines = [
        "select v.item_id, v.embedding <#> p_query as distance",
        f"from recsys.item_vector_{suffix} as v",
        "where v.item_id <> all (p_exclude)",
        f"order by {key.distance('v.embedding', 'p_query')}",
    ]
    if key.whole:
        return _indented([*lines, "limit p_k"], 16)
    depth = "greatest(p_k, ceil(p_ef * greatest(1, p_k / 20.0) ^ 0.7)::integer)"
    lines = [
        "select short.item_id, short.distance",
        f"from ({_indented([*lines, f'limit {depth}'], 6)}) as short",
        f"order by short.distance, short.item_id{collation(config.item_id)}",
        "limit p_k",
    ]
    return _indented(lines, 16)


def _indented(lines: Sequence[str], spaces: int) -> str:
    """Join lines; all but the first are indented."""
    text = "\n".join(lines)
    return text.replace("\n", "\n" + " " * spaces)


def _binary(kept: int, dim: int) -> IndexKey:
    steps = math.ceil((_LEVELS_TO - _LEVELS_FROM) * kept / (math.pi * _SINE))
    width = (_LEVELS_TO - _LEVELS_FROM) / steps
    levels = [_LEVELS_FROM + (place + 0.5) * width for place in range(steps)]
    halves = [0.5 if place % 2 else -0.5 for place in range(steps)]

    def bits(thresholds: list[float]) -> str:
        # Not a function: the server runs the expression of an index without a
        # search_path, where a body would not find pgvector.
        given = ",".join(f"{threshold:.4f}" for threshold in thresholds)
        return (
            f"binary_quantize(subvector({{v}}, 1, {kept}) ||"
            f" (array_fill((subvector({{v}}, {dim + 1}, 1)::real[])[1],"
            f" array[{steps}])::halfvec - '[{given}]'::halfvec))"
            f"::bit({kept + steps})"
        )

    size = 8 + math.ceil((kept + steps) / 8)
    return IndexKey(bits(levels), bits(halves), "<~>", "bit_hamming_ops", size, False)
