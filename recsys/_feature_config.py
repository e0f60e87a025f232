"""What recsys.toml says about sources: their SQL and the features on its columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from recsys._config_read import keys, sql_of, suggest, table_of, typed
from recsys._toml import alternatives, listed, literal
from recsys.errors import ConfigError

TIME_PARTS = ("age", "year", "week", "day")
_SCALES = ("linear", "log")
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "category": ("min_count", "max_size"),
    "categories": ("min_count", "max_size", "separator"),
    "text": ("ngrams", "buckets", "max_words", "encoder", "fine_tune"),
    "number": ("scale",),
    "time": ("parts",),
    "vector": ("dim", "fine_tune"),
}
FEATURE_TYPES = tuple(_OPTIONS)
_FOLLOWED = ("watch", "updated_at", "sweep_s")
_WATCH_HINT = (
    'Such as watch = { product = "id", brand = "select product.id from product join '
    'changed on product.brand_id = changed.id" }.'
)
_COLUMN_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Feature:
    """One declared feature: a column of a source and how it becomes numbers.

    Attributes:
        name: Column of the source SQL.
        type: One of ``FEATURE_TYPES``.
        scale: ``number`` only: "linear" or "log" (signed log1p before standardising).
        min_count: ``category``/``categories``: rarer values share the unknown row.
        max_size: ``category``/``categories``: largest learned vocabulary.
        separator: ``categories`` in one string: what separates them; arrays need none.
        ngrams: ``text``: hash word n-grams up to this length, 1 to 3.
        buckets: ``text``: number of hash buckets.
        max_words: ``text``: words after this many are ignored.
        dim: ``vector``: its length; with an encoder that of its vectors.
        parts: ``time``: any of ``TIME_PARTS``.
        encoder: ``text`` of items: directory of a text encoder that makes it a vector.
        fine_tune: ``vector``, and ``text`` with an encoder: learn a small network over
            the vector, which itself stays as it is.
        sha256: The encoder's, in hex; filled in when training starts.
    """

    name: str
    type: str
    scale: str = "linear"
    min_count: int = 2
    max_size: int = 100_000
    separator: str | None = None
    ngrams: int = 2
    buckets: int = 16_384
    max_words: int = 32
    dim: int = 0
    parts: tuple[str, ...] = ("age", "year", "week")
    encoder: str = ""
    fine_tune: bool = False
    sha256: str = ""

    @property
    def is_vector(self) -> bool:
        """Whether the towers take it as a vector of ``dim`` numbers."""
        return self.type == "vector" or bool(self.encoder)


@dataclass(frozen=True, slots=True)
class Source:
    """SQL over the application's tables and the features declared on its columns.

    Attributes:
        sql: The query.
        features: Declared on its columns, in order.
        watch: Items only: table -> which items a changed row concerns. A column of
            that table that holds the item id, or a query over ``changed``, the changed
            rows, that returns item ids.
        updated_at: Items only: a column of the query, a timestamp that every change
            moves, by which changes are found where triggers cannot be.
        sweep_s: Items only: seconds between two looks at ``updated_at``.
    """

    sql: str = ""
    features: tuple[Feature, ...] = ()
    watch: Mapping[str, str] = field(default_factory=dict[str, str])
    updated_at: str = ""
    sweep_s: float = 60.0


def source_of(
    table: Mapping[str, Any],
    key: str,
    where: str,
    *,
    required: bool = False,
    sql: bool = True,
) -> Source:
    """Return the checked table of a source, an empty source where there is none."""
    if key not in table:
        if required:
            raise ConfigError(
                f"{where} has no [{key}] table",
                hint=f"Add [{where[1:-1]}.{key}] with"
                ' sql = "select id as item_id, ... from ..."',
            )
        return Source()
    here = f"[{where[1:-1]}.{key}]"
    part = table_of(table, key, where)
    known = ("sql", "features") if sql else ("features",)
    keys(part, (*known, *(_FOLLOWED if key == "items" else ())), here)
    declared = table_of(part, "features", here)
    watch = table_of(part, "watch", here, hint=_WATCH_HINT)
    for name, item in watch.items():
        if not isinstance(item, str) or not item.strip():
            raise ConfigError(
                f"{here} watch.{name} must be the column that holds the item id, or a "
                "query over 'changed'",
                hint=_WATCH_HINT,
            )
    return Source(
        sql=sql_of(part, here) if sql else "",
        features=tuple(_feature(n, declared[n], here) for n in declared),
        watch={name: str(item).strip() for name, item in watch.items()},
        updated_at=_updated_at(part, here),
        sweep_s=_sweep(part, here),
    )


def _updated_at(part: Mapping[str, Any], here: str) -> str:
    column = part.get("updated_at", "")
    if not isinstance(column, str) or (column and not _COLUMN_NAME.fullmatch(column)):
        raise ConfigError(
            f"{here} updated_at must name a column of its sql, got {literal(column)}"
        )
    return column


def _sweep(part: Mapping[str, Any], here: str) -> float:
    seconds = part.get("sweep_s", 60.0)
    if type(seconds) not in (int, float) or not 1 <= seconds <= 86_400:
        raise ConfigError(f"{here} sweep_s must be from 1 to 86400 seconds")
    return float(seconds)


def _feature(name: str, data: object, where: str) -> Feature:
    here = f"{where} feature {literal(name)}"
    if not _COLUMN_NAME.fullmatch(name) or name in ("item_id", "user_id"):
        raise ConfigError(
            f"{here}: not a usable column name",
            hint="Rename the column in the source SQL: lower-case a-z, 0-9 and _.",
        )
    if not isinstance(data, Mapping):
        raise ConfigError(f"{here} must be a table", hint='{ type = "category" }')
    options = dict(cast(Mapping[str, Any], data))
    kind = options.get("type")
    if kind not in FEATURE_TYPES:
        raise ConfigError(
            f"{here} has no type"
            if kind is None
            else f"{here}: unknown type {literal(kind)}",
            hint=suggest(str(kind), FEATURE_TYPES)
            or f"Types: {listed(FEATURE_TYPES)}.",
        )
    keys(options, ("type", *_OPTIONS[kind]), here)
    _check_encoder(options, here)
    feature = Feature(name=name, **typed(Feature, options, here))
    _check_options(feature, here)
    return feature


def _check_options(feature: Feature, here: str) -> None:
    bad = (
        (
            feature.scale not in _SCALES,
            f"scale must be {alternatives(_SCALES)}, got {literal(feature.scale)}",
        ),
        (not 1 <= feature.ngrams <= 3, "ngrams must be 1, 2 or 3"),
        (not 16 <= feature.buckets <= 2**22, "buckets must be 16 to 4194304"),
        (not 1 <= feature.max_words <= 512, "max_words must be 1 to 512"),
        (feature.min_count < 1, "min_count must be at least 1"),
        (not 1 <= feature.max_size <= 10_000_000, "max_size must be 1 to 10 million"),
        (
            feature.type == "vector" and not 1 <= feature.dim <= 16_000,
            "dim must be 1 to 16000",
        ),
        (
            any(part not in TIME_PARTS for part in feature.parts),
            f"parts must be some of {literal(TIME_PARTS)}, got"
            f" {literal(feature.parts)}",
        ),
    )
    for wrong, message in bad:
        if wrong:
            raise ConfigError(f"{here}: {message}")


def _check_encoder(options: Mapping[str, Any], here: str) -> None:
    if "encoder" not in options:
        if options.get("fine_tune") and options["type"] == "text":
            raise ConfigError(
                f"{here}: fine_tune is for a vector, or a text with an encoder",
                hint="Hashed words are learned anyway.",
            )
        return
    if not here.partition(" feature ")[0].endswith(".items]"):
        raise ConfigError(
            f"{here}: only texts of items can have an encoder",
            hint="It would run in every request; select a vector instead.",
        )
    if options["encoder"] == "":
        raise ConfigError(f"{here}: encoder must be a directory")
    hashed = sorted({"ngrams", "buckets", "max_words"} & set(options))
    if hashed:
        raise ConfigError(
            f"{here}: {hashed[0]} is about hashed words, which an encoder replaces",
            hint="For both, select the column a second time under another name.",
        )
