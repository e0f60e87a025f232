"""recsys.toml as frozen dataclasses; every unknown or misspelt key is an error."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from recsys._config_read import keys, plain, sql_of, suggest, table_of, typed
from recsys._interactions_config import Interactions as Interactions
from recsys._interactions_config import interactions_of
from recsys._learning_config import NegativesConfig as NegativesConfig
from recsys._learning_config import TrainConfig as TrainConfig
from recsys._learning_config import negatives_problems, train_problems
from recsys._query_config import QueryConfig
from recsys.errors import ConfigError
from recsys.updates.settings import UpdateConfig as UpdateConfig

IdType = Literal["bigint", "uuid", "text"]
ID_TYPES: tuple[IdType, ...] = ("bigint", "uuid", "text")
FEATURE_TYPES = ("category", "categories", "text", "number", "time", "vector")
QUANTISATIONS = ("none", "binary")
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


@dataclass(frozen=True, slots=True)
class ContentConfig:
    """The layers that turn the features of a side into one vector.

    Attributes:
        cross: Cross layers (DCN-v2) beside the dense block; 0 means none.
        rank: Rank of their matrices; 0 means full ones.
        hidden: Width of the dense block; 0 means ``train.dim``.
    """

    cross: int = 0
    rank: int = 0
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """HNSW options and the recall the version must reach.

    Attributes:
        m: Links per node, 2 to 100.
        ef_construction: Candidates while building, 4 to 1000.
        recall_target: ANN recall@20 against the exact scan that ef_search is
            calibrated to, in (0, 1].
        memory_mb: Most maintenance_work_mem that the build may take.
        prefix: Dimensions that are indexed; what the index finds is re-ranked by the
            whole vectors. 0: all.
        quantisation: "none", or "binary": the index holds signs, and what it finds is
            re-ranked.
    """

    m: int = 16
    ef_construction: int = 64
    recall_target: float = 0.95
    memory_mb: int = 4096
    prefix: int = 0
    quantisation: str = "none"


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
    train: TrainConfig = field(default_factory=TrainConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    content: ContentConfig = field(default_factory=ContentConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    query: QueryConfig = field(default_factory=QueryConfig)
    negatives: NegativesConfig = field(default_factory=NegativesConfig)

    @property
    def history(self) -> int:
        """Most items of a history that a request reads."""
        if self.query.sequential:
            return min(self.train.history, self.query.length)
        return self.train.history

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
            hint=suggest(name, self.models) or f"Declared models: {known}.",
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
    keys(data, ("versions", "model"), "the top level")
    versions = data.get("versions", "recsys_versions")
    if not isinstance(versions, str):
        raise ConfigError("'versions' must be the name of a folder")
    root = path.parent.resolve() if path else Path.cwd()
    models = table_of(data, "model", "the top level")
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
        interactions=Interactions(
            **_with_tuple(_with_tuple({"dislikes": (), **inter}, "targets"), "dislikes")
        ),
        train=TrainConfig(**data["train"]),
        index=IndexConfig(**data["index"]),
        content=ContentConfig(**data.get("content", {})),
        update=UpdateConfig(**data.get("update", {})),
        # Versions from before there was a choice have the mean.
        query=QueryConfig(
            **_with_tuple(data.get("query", {"encoder": "mean", "kinds": ()}), "kinds")
        ),
        negatives=NegativesConfig(**data.get("negatives", {})),
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
    keys(
        table,
        ("item_id", "user_id", "items", "users", "context", "interactions", "train",
         "index", "content", "update", "query", "negatives"),
        where,
    )  # fmt: skip
    config = ModelConfig(
        name=name,
        item_id=_id_type(table, "item_id", where),
        user_id=_id_type(table, "user_id", where),
        items=_source(table, "items", where, required=True),
        users=_source(table, "users", where),
        context=_source(table, "context", where, sql=False),
        interactions=interactions_of(table, where),
        train=plain(TrainConfig, table, "train", where),
        index=plain(IndexConfig, table, "index", where),
        content=plain(ContentConfig, table, "content", where),
        update=plain(UpdateConfig, table, "update", where),
        query=_query(table, where),
        negatives=plain(NegativesConfig, table, "negatives", where),
    )
    _check_ranges(config, where)
    return config


def checked(config: ModelConfig) -> ModelConfig:
    """Return a configuration that was changed in code, if its values are in range.

    Raises:
        ConfigError: One is not.
    """
    _check_ranges(config, f"[model.{config.name}]")
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
            raise ConfigError(
                f"{where} has no [{key}] table",
                hint="Add [model.NAME.items] with sql = "
                '"select id as item_id, ... from ..."',
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
            f"{here} updated_at must name a column of its sql, got {column!r}"
        )
    return column


def _sweep(part: Mapping[str, Any], here: str) -> float:
    seconds = part.get("sweep_s", 60.0)
    if type(seconds) not in (int, float) or not 1 <= seconds <= 86_400:
        raise ConfigError(f"{here} sweep_s must be from 1 to 86400 seconds")
    return float(seconds)


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
            hint=suggest(str(kind), FEATURE_TYPES)
            or f"Types: {', '.join(FEATURE_TYPES)}.",
        )
    allowed: dict[str, tuple[str, ...]] = {
        "category": ("min_count", "max_size"),
        "categories": ("min_count", "max_size", "separator"),
        "text": ("ngrams", "buckets", "max_words", "encoder", "fine_tune"),
        "number": ("scale",),
        "time": ("parts",),
        "vector": ("dim", "fine_tune"),
    }
    keys(options, ("type", *allowed[kind]), here)
    _check_encoder(options, here)
    if "parts" in options:
        options["parts"] = tuple(options["parts"])
    feature = Feature(name=name, **typed(Feature, options, here))
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


def _check_ranges(config: ModelConfig, where: str) -> None:
    train, index, content = config.train, config.index, config.content
    bad = (
        *train_problems(train),
        *negatives_problems(config.negatives),
        (not 2 <= index.m <= 100, "index.m must be 2 to 100"),
        (
            not max(4, 2 * index.m) <= index.ef_construction <= 1000,
            "index.ef_construction must be 2*m to 1000",
        ),
        (not 0 < index.recall_target <= 1, "index.recall_target must be in (0, 1]"),
        (index.memory_mb < 16, "index.memory_mb must be at least 16"),
        (not 0 <= content.cross <= 8, "content.cross must be 0 to 8 layers"),
        (not 0 <= content.rank <= 1024, "content.rank must be 0 to 1024"),
        (not 0 <= content.hidden <= 4096, "content.hidden must be 0 to 4096"),
        (
            not 0 <= index.prefix <= train.dim,
            f"index.prefix must be 0 to train.dim, which is {train.dim}",
        ),
        (
            index.quantisation not in QUANTISATIONS,
            f"index.quantisation must be one of {', '.join(QUANTISATIONS)}",
        ),
        (
            config.query.headed and train.dim % config.query.heads > 0,
            f"query.heads must divide train.dim, which is {train.dim}",
        ),
    )
    for wrong, message in bad:
        if wrong:
            raise ConfigError(f"{where} {message}")
    problem = config.update.problem()
    if problem:
        raise ConfigError(f"{where} update.{problem}")
    if config.update.every_s and config.query.beyond_mean:
        raise ConfigError(
            f"{where} update.every_s needs queries that are means of histories, not"
            f" those of {config.query.beyond_mean}",
            hint='Set query.encoder = "mean" and query.interests_from = "clusters", or'
            " leave out update.every_s and train regularly.",
        )
    for name in ("companions", "recent_beta"):
        if config.query.sequential and getattr(train, name) > 0:
            raise ConfigError(
                f"{where} train.{name} needs the mean of the history, and query.encoder"
                f" is {config.query.encoder!r}",
                hint=f"Leave out train.{name}: sequences are learned without it.",
            )
    names = [f.name for f in config.context.features]
    columns = {"user_id", "item_id", "occurred_at", "kind"}
    if config.interactions.value:
        columns.add("value")
    reserved = columns & set(names)
    if reserved:
        raise ConfigError(f"{where} context feature uses a reserved name: {reserved}")
    if config.users.features and not config.users.sql:
        raise ConfigError(f"{where} users.features need users.sql")


def _query(table: Mapping[str, Any], where: str) -> QueryConfig:
    query = plain(QueryConfig, table, "query", where, without=("kinds",))
    here = f"[{where[1:-1]}.query]"
    query.check(here)
    return query
