"""recsys.toml as frozen dataclasses; every unknown or misspelt key is an error."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from recsys import _config_check
from recsys._config_read import keys, plain, suggest, table_of
from recsys._feature_config import Feature as Feature
from recsys._feature_config import Source as Source
from recsys._feature_config import source_of
from recsys._interactions_config import Interactions as Interactions
from recsys._interactions_config import interactions_of
from recsys._learning_config import NegativesConfig as NegativesConfig
from recsys._learning_config import TrainConfig as TrainConfig
from recsys._query_config import QueryConfig
from recsys._toml import alternatives, literal
from recsys.errors import ConfigError
from recsys.updates.settings import UpdateConfig as UpdateConfig

IdType = Literal["bigint", "uuid", "text"]
ID_TYPES: tuple[IdType, ...] = ("bigint", "uuid", "text")
# alembic keeps revision ids such as "<model>_<number>" in 32 characters, and Postgres
# cuts identifiers at 63 bytes.
_MODEL_NAME = re.compile(r"[a-z][a-z0-9_]{0,23}")


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
        where = self.path or "the configuration"
        raise ConfigError(
            f"model {literal(name)} is not declared in {where}",
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
        raise ConfigError(
            f"versions must be the name of a folder, got {literal(versions)}"
        )
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
            f"model name {literal(name)} is not usable in table names",
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
        items=source_of(table, "items", where, required=True),
        users=source_of(table, "users", where),
        context=source_of(table, "context", where, sql=False),
        interactions=interactions_of(table, where),
        train=plain(TrainConfig, table, "train", where),
        index=plain(IndexConfig, table, "index", where),
        content=plain(ContentConfig, table, "content", where),
        update=plain(UpdateConfig, table, "update", where),
        query=_query(table, where),
        negatives=plain(NegativesConfig, table, "negatives", where),
    )
    _config_check.check(config, where)
    return config


def checked(config: ModelConfig) -> ModelConfig:
    """Return a configuration that was changed in code, if its values are in range.

    Raises:
        ConfigError: One is not.
    """
    _config_check.check(config, f"[model.{config.name}]")
    return config


def _id_type(table: Mapping[str, Any], key: str, where: str) -> IdType:
    value = table.get(key, "bigint")
    if value not in ID_TYPES:
        raise ConfigError(
            f"{where} {key} = {literal(value)} is not an id type",
            hint=f"Use {alternatives(ID_TYPES)}.",
        )
    return value


def _query(table: Mapping[str, Any], where: str) -> QueryConfig:
    query = plain(QueryConfig, table, "query", where, without=("kinds",))
    here = f"[{where[1:-1]}.query]"
    query.check(here)
    return query
