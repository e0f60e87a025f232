"""recsys.toml as frozen dataclasses; every unknown or misspelt key is an error."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from recsys.errors import ConfigError

_T = TypeVar("_T")
IdType = Literal["bigint", "uuid", "text"]
ID_TYPES: tuple[IdType, ...] = ("bigint", "uuid", "text")
FEATURE_TYPES = ("category", "categories", "text", "number", "time", "vector")
TIME_PARTS = ("age", "year", "week", "day")
# alembic keeps revision ids such as "<model>_<number>" in 32 characters, and Postgres
# cuts identifiers at 63 bytes.
_MODEL_NAME = re.compile(r"[a-z][a-z0-9_]{0,23}")
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
        dim: ``vector``: its length.
        parts: ``time``: any of ``TIME_PARTS``.
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


@dataclass(frozen=True, slots=True)
class Interactions:
    """The interaction source.

    Attributes:
        sql: Returns ``user_id``, ``item_id`` and optionally ``occurred_at`` (a
            timestamp), ``kind`` (text) and one column per context feature.
        weights: Weight per kind. A kind of weight 0 counts as seen, never as taste.
            Kinds not listed weigh 1 when the table is empty, else 0.
        targets: Kinds that evaluation counts as hits; empty means every kind of
            positive weight.
        record: Statement that ``record()`` runs, with %(user_id)s, %(item_id)s,
            %(kind)s, %(occurred_at)s and %(request_id)s; empty means the table
            ``recsys.interaction``.
    """

    sql: str
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    targets: tuple[str, ...] = ()
    record: str = ""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Hyper-parameters; 0 or an empty value means "chosen on the validation slice".

    Attributes:
        dim: Length of the learned unit vectors; stored item vectors have one more.
        history: Most recent items of a user that make the query vector.
        epochs: Passes over the users; 0 lets early stopping choose, up to max_epochs.
        max_epochs: Upper bound of the choice.
        budget_s: Seconds for tuning and fitting together.
        batch: Users per step.
        negatives: Shared uniform negatives per step.
        tau: Temperature; 0 chooses.
        dropout: Share of history items hidden per step; negative chooses.
        beta: Weight of log popularity inside the loss.
        lr: Peak learning rate of Adam.
        id_dropout: Share of items per step that must do with their content alone;
            only when item features are declared.
        validation: Share of the interactions (the latest ones, when they have a time)
            held out to choose the settings.
        seed: Every random choice follows from it.
    """

    dim: int = 64
    history: int = 256
    epochs: int = 0
    max_epochs: int = 70
    budget_s: float = 180.0
    batch: int = 512
    negatives: int = 8192
    tau: float = 0.0
    dropout: float = -1.0
    beta: float = 0.5
    lr: float = 6e-3
    id_dropout: float = 0.15
    validation: float = 0.1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """HNSW options and the recall the version must reach.

    Attributes:
        m: Links per node, 2 to 100.
        ef_construction: Candidates while building, 4 to 1000.
        recall_target: ANN recall@20 against the exact scan that ef_search is
            calibrated to, in (0, 1].
        memory_mb: Most maintenance_work_mem that the build may take.
    """

    m: int = 16
    ef_construction: int = 64
    recall_target: float = 0.95
    memory_mb: int = 4096


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything recsys.toml says about one model."""

    name: str
    item_id: IdType
    user_id: IdType
    items: Source
    users: Source
    context: Source
    interactions: Interactions
    train: TrainConfig = TrainConfig()
    index: IndexConfig = IndexConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable copy; ``model_from_dict`` reads it back."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ProjectConfig:
    """A whole recsys.toml.

    Attributes:
        path: The file, or None when it was given as a mapping.
        versions: Folder of the model revisions, absolute when read from a file.
        models: Model configurations by name.
    """

    path: Path | None
    versions: Path
    models: Mapping[str, ModelConfig]

    def model(self, name: str) -> ModelConfig:
        """Return one model's configuration.

        Raises:
            ConfigError: The file does not declare it.
        """
        if name in self.models:
            return self.models[name]
        known = ", ".join(sorted(self.models)) or "none"
        raise ConfigError(
            f"model {name!r} is not declared in {self.path or 'the configuration'}",
            hint=_suggest(name, self.models) or f"Declared models: {known}.",
        )


def load(path: Path) -> ProjectConfig:
    """Read and check a recsys.toml.

    Raises:
        ConfigError: The file is missing, is not TOML, or has a bad key or value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(
            f"cannot read {path}: {exc.strerror}",
            hint="Run 'recsys init' to write one, or pass --config FILE.",
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{path} is not UTF-8 text: {exc}", hint="Save it as UTF-8."
        ) from exc
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc
    return from_mapping(data, path=path)


def from_mapping(data: Mapping[str, Any], *, path: Path | None = None) -> ProjectConfig:
    """Check a mapping shaped like recsys.toml (Django or Flask settings)."""
    _keys(data, ("versions", "model"), "the top level")
    versions = data.get("versions", "recsys_versions")
    if not isinstance(versions, str):
        raise ConfigError("'versions' must be the name of a folder")
    root = path.parent.resolve() if path else Path.cwd()
    models = _table(data, "model", "the top level")
    return ProjectConfig(
        path=path,
        versions=root / versions,
        models={name: _model(name, models[name]) for name in models},
    )


def model_from_dict(data: Mapping[str, Any]) -> ModelConfig:
    """Rebuild a configuration stored by ``ModelConfig.to_dict``."""

    def source(part: Mapping[str, Any]) -> Source:
        features = tuple(Feature(**_with_tuple(f, "parts")) for f in part["features"])
        values: dict[str, Any] = {**part, "features": features}
        return Source(**values)

    inter = data["interactions"]
    return ModelConfig(
        name=data["name"],
        item_id=data["item_id"],
        user_id=data["user_id"],
        items=source(data["items"]),
        users=source(data["users"]),
        context=source(data["context"]),
        interactions=Interactions(**_with_tuple(inter, "targets")),
        train=TrainConfig(**data["train"]),
        index=IndexConfig(**data["index"]),
    )


def _with_tuple(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """JSON has lists only."""
    return {**data, key: tuple(data[key])}


def _model(name: str, data: object) -> ModelConfig:
    where = f"[model.{name}]"
    if not _MODEL_NAME.fullmatch(name):
        raise ConfigError(
            f"model name {name!r} is not usable in table names",
            hint="Use at most 24 of a-z, 0-9 and _, starting with a letter.",
        )
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a table")
    table = cast(Mapping[str, Any], data)
    _keys(
        table,
        ("item_id", "user_id", "items", "users", "context", "interactions", "train",
         "index"),
        where,
    )  # fmt: skip
    config = ModelConfig(
        name=name,
        item_id=_id_type(table, "item_id", where),
        user_id=_id_type(table, "user_id", where),
        items=_source(table, "items", where, required=True),
        users=_source(table, "users", where),
        context=_source(table, "context", where, sql=False),
        interactions=_interactions(table, where),
        train=_plain(TrainConfig, table, "train", where),
        index=_plain(IndexConfig, table, "index", where),
    )
    _check_ranges(config, where)
    return config


def _id_type(table: Mapping[str, Any], key: str, where: str) -> IdType:
    value = table.get(key, "bigint")
    if value not in ID_TYPES:
        raise ConfigError(
            f"{where} {key} = {value!r} is not an id type",
            hint='Use "bigint", "uuid" or "text".',
        )
    return value


def _source(
    table: Mapping[str, Any],
    key: str,
    where: str,
    *,
    required: bool = False,
    sql: bool = True,
) -> Source:
    if key not in table:
        if required:
            raise ConfigError(f"{where} has no [{key}] table", hint=_example(key))
        return Source()
    here = f"[{where[1:-1]}.{key}]"
    part = _table(table, key, where)
    known = ("sql", "features") if sql else ("features",)
    _keys(part, (*known, *(_FOLLOWED if key == "items" else ())), here)
    declared = _table(part, "features", here)
    watch = _table(part, "watch", here, hint=_WATCH_HINT)
    for name, item in watch.items():
        if not isinstance(item, str) or not item.strip():
            raise ConfigError(
                f"{here} watch.{name} must be the column that holds the item id, or a "
                "query over 'changed'",
                hint=_WATCH_HINT,
            )
    return Source(
        sql=_sql(part, here) if sql else "",
        features=tuple(_feature(n, declared[n], here) for n in declared),
        watch={name: str(item).strip() for name, item in watch.items()},
        updated_at=_updated_at(part, here),
        sweep_s=_sweep(part, here),
    )


def _updated_at(part: Mapping[str, Any], here: str) -> str:
    column = part.get("updated_at", "")
    if not isinstance(column, str) or (column and not _COLUMN_NAME.fullmatch(column)):
        raise ConfigError(
            f"{here} updated_at must name a column of its sql, got {column!r}"
        )
    return column


def _sweep(part: Mapping[str, Any], here: str) -> float:
    seconds = part.get("sweep_s", 60.0)
    if type(seconds) not in (int, float) or not 1 <= seconds <= 86_400:
        raise ConfigError(f"{here} sweep_s must be from 1 to 86400 seconds")
    return float(seconds)


def _interactions(table: Mapping[str, Any], where: str) -> Interactions:
    if "interactions" not in table:
        raise ConfigError(
            f"{where} has no [interactions] table", hint=_example("interactions")
        )
    here = f"[{where[1:-1]}.interactions]"
    part = _table(table, "interactions", where)
    _keys(part, ("sql", "weights", "targets", "record"), here)
    weights = _table(part, "weights", here)
    for kind, weight in weights.items():
        if type(weight) not in (int, float) or not 0 <= weight < 1e6:
            raise ConfigError(
                f"{here} weights.{kind} must be a number from 0 to a million",
                hint="Weight 0 means: seen, but says nothing about taste.",
            )
    targets = part.get("targets", [])
    if not isinstance(targets, list) or not all(
        isinstance(kind, str) for kind in cast(list[object], targets)
    ):
        raise ConfigError(f"{here} targets must be a list of kinds")
    unknown = set(cast(list[str], targets)) - set(weights) if weights else set[str]()
    if unknown:
        raise ConfigError(f"{here} targets names kinds without a weight: {unknown}")
    record = part.get("record", "")
    if not isinstance(record, str):
        raise ConfigError(f"{here} record must be an SQL statement")
    return Interactions(
        sql=_sql(part, here),
        weights={k: float(v) for k, v in weights.items()},
        targets=tuple(cast(list[str], targets)),
        record=record,
    )


def _sql(part: Mapping[str, Any], here: str) -> str:
    value = part.get("sql")
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f'{here} needs sql = "select ..."')
    text = _end(value)
    if not text:
        raise ConfigError(f'{here} needs sql = "select ..."')
    return text


_TOKEN = re.compile(
    r"""
    (?P<blank> \s+ | --[^\n]* | (?P<open>/\*) )
    | (?P<semicolon> ; )
    | (?P<escape> (?<![a-zA-Z0-9_$])[eE]'(?:[^'\\]|\\.|'')*' )
    | '(?:[^']|'')*' | "(?:[^"]|"")*"
    | (?<![a-zA-Z0-9_$])(?P<dollar>\$(?:[a-zA-Z_]\w*)?\$).*?(?P=dollar)
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_NESTED = re.compile(r"/\*|\*/")


def _end(text: str) -> str:
    """Cut the semicolon, and what follows it, off a statement; comments inside stay.

    Raises:
        ConfigError: Another statement follows.
    """
    place, semicolon = 0, -1
    while place < len(text):
        token = _TOKEN.match(text, place)
        assert token  # the last alternative takes any character
        if token["semicolon"]:
            semicolon = place if semicolon < 0 else semicolon
        elif not token["blank"] and semicolon >= 0:
            raise ConfigError(
                "a source must be one statement, but something follows its ';'",
                hint="Remove the semicolon and what follows it.",
            )
        place = _comment_end(text, place) if token["open"] else token.end()
    return (text if semicolon < 0 else text[:semicolon]).strip()


def _comment_end(text: str, place: int) -> int:
    """Return where the comment that begins at a place ends; comments nest."""
    depth = 0
    for mark in _NESTED.finditer(text, place):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(text)


def _feature(name: str, data: object, where: str) -> Feature:
    here = f"{where} feature {name!r}"
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
            f"{here}: unknown type {kind!r}",
            hint=_suggest(str(kind), FEATURE_TYPES)
            or f"Types: {', '.join(FEATURE_TYPES)}.",
        )
    allowed: dict[str, tuple[str, ...]] = {
        "category": ("min_count", "max_size"),
        "categories": ("min_count", "max_size", "separator"),
        "text": ("ngrams", "buckets", "max_words"),
        "number": ("scale",),
        "time": ("parts",),
        "vector": ("dim",),
    }
    _keys(options, ("type", *allowed[kind]), here)
    if "parts" in options:
        options["parts"] = tuple(options["parts"])
    feature = Feature(name=name, **_typed(Feature, options, here))
    bad = (
        (feature.scale not in ("linear", "log"), 'scale must be "linear" or "log"'),
        (not 1 <= feature.ngrams <= 3, "ngrams must be 1, 2 or 3"),
        (not 16 <= feature.buckets <= 2**22, "buckets must be 16 to 4194304"),
        (not 1 <= feature.max_words <= 512, "max_words must be 1 to 512"),
        (feature.min_count < 1, "min_count must be at least 1"),
        (not 1 <= feature.max_size <= 10_000_000, "max_size must be 1 to 10 million"),
        (kind == "vector" and not 1 <= feature.dim <= 16_000, "dim must be 1 to 16000"),
        (not set(feature.parts) <= set(TIME_PARTS), f"parts are {TIME_PARTS}"),
    )
    for wrong, message in bad:
        if wrong:
            raise ConfigError(f"{here}: {message}")
    return feature


def _check_ranges(config: ModelConfig, where: str) -> None:
    train, index = config.train, config.index
    bad = (
        (not 2 <= train.dim <= 1999, "train.dim must be 2 to 1999"),
        (not 1 <= train.history <= 10_000, "train.history must be 1 to 10000"),
        (train.epochs < 0 or train.max_epochs < 1, "train.epochs must be positive"),
        (train.budget_s <= 0, "train.budget_s must be positive seconds"),
        (train.batch < 1 or train.negatives < 1, "train.batch/negatives must be > 0"),
        (train.tau < 0, "train.tau must be positive, or 0 to choose"),
        (train.dropout >= 1, "train.dropout must be below 1"),
        (not 0 <= train.id_dropout < 1, "train.id_dropout must be in [0, 1)"),
        (not 0 < train.validation < 0.5, "train.validation must be in (0, 0.5)"),
        (not 2 <= index.m <= 100, "index.m must be 2 to 100"),
        (
            not max(4, 2 * index.m) <= index.ef_construction <= 1000,
            "index.ef_construction must be 2*m to 1000",
        ),
        (not 0 < index.recall_target <= 1, "index.recall_target must be in (0, 1]"),
        (index.memory_mb < 16, "index.memory_mb must be at least 16"),
    )
    for wrong, message in bad:
        if wrong:
            raise ConfigError(f"{where} {message}")
    names = [f.name for f in config.context.features]
    reserved = {"user_id", "item_id", "occurred_at", "kind"} & set(names)
    if reserved:
        raise ConfigError(f"{where} context feature uses a reserved name: {reserved}")
    if config.users.features and not config.users.sql:
        raise ConfigError(f"{where} users.features need users.sql")


def _plain(cls: type[_T], table: Mapping[str, Any], key: str, where: str) -> _T:
    here = f"[{where[1:-1]}.{key}]"
    part = _table(table, key, where)
    _keys(part, tuple(f.name for f in fields(cast(Any, cls))), here)
    return cls(**_typed(cls, part, here))


def _typed(cls: type, part: Mapping[str, Any], here: str) -> dict[str, Any]:
    """Check each value against the type of the field's default."""
    out: dict[str, Any] = {}
    for item in fields(cls):
        if item.name not in part:
            continue
        value = part[item.name]
        default = (
            "" if item.default is MISSING or item.default is None else item.default
        )
        wanted = cast(type, type(default))
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
            raise ConfigError(
                f"{here} {item.name} must be {wanted.__name__}, "
                f"got {type(value).__name__} {value!r}"
            )
        out[item.name] = value
    return out


def _table(
    data: Mapping[str, Any], key: str, where: str, *, hint: str = ""
) -> Mapping[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} {key} must be a table", hint=hint)
    return cast(Mapping[str, Any], value)


def _keys(data: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in allowed:
            raise ConfigError(
                f"unknown key {key!r} in {where}",
                hint=_suggest(key, allowed) or f"Known keys: {', '.join(allowed)}.",
            )


def _suggest(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def _example(key: str) -> str:
    if key == "items":
        return 'Add [model.NAME.items] with sql = "select id as item_id, ... from ..."'
    return (
        "Add [model.NAME.interactions] with "
        'sql = "select user_id, item_id, occurred_at, kind from ..."'
    )
