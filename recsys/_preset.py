"""Presets of the demo: a folder with recsys.toml, setup.sql and a tiny demo.toml."""

from __future__ import annotations

import runpy
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from psycopg import errors as pg

from recsys import _sql
from recsys._db import Connection
from recsys.config import ModelConfig
from recsys.errors import ConfigError
from recsys.importing import import_csv
from recsys.progress import Progress


@dataclass(frozen=True, slots=True)
class Preset:
    """What demo.toml says.

    Attributes:
        folder: Where demo.toml, recsys.toml and setup.sql are.
        data: Folder of the CSV files.
        model: Name of the model, and of the embedded database.
        item: SQL with two columns: item id and what to show for it.
        until: Train on what came before, look at what came after.
        holdout: CSV file of a published split to score instead.
        among: SQL of some item ids: an example of a filter.
        generate: Python file whose ``fill(conn)`` makes and loads the tables.
        imports: CSV file by table.
    """

    folder: Path
    data: Path
    model: str
    item: str
    until: datetime | None = None
    holdout: str = ""
    among: str = ""
    generate: str = ""
    imports: Mapping[str, str] = field(default_factory=dict[str, str])


def find(data: Path | None) -> Preset:
    """Return the preset of a data folder; without one, that of the shop.

    The folder's own demo.toml comes first, then the example of the same name, then an
    example whose files are all there.

    Raises:
        ConfigError: There is none, or its demo.toml is malformed.
    """
    examples = _sql.files() / "examples"
    if data is None:
        return _read(examples / "shop", examples / "shop")
    if not data.is_dir():
        raise ConfigError(
            f"there is no folder {data}", hint="Pass --data DIR, a folder of CSV files."
        )
    for folder in (data, examples / data.resolve().name):
        if (folder / "demo.toml").is_file():
            return _read(folder, data)
    known = [_read(path.parent, data) for path in sorted(examples.glob("*/demo.toml"))]
    for preset in known:
        files = preset.imports.values()
        if files and all((data / name).is_file() for name in files):
            return preset
    raise ConfigError(
        f"no preset fits the files of {data}",
        hint="Load them with 'recsys import FILE --table NAME' and write a recsys.toml "
        f"('recsys init'), or put a demo.toml beside them as in {examples}.",
    )


def _read(folder: Path, data: Path) -> Preset:
    path = folder / "demo.toml"
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise ConfigError(
            f"cannot read {path}: {exc.strerror}",
            hint="The demo runs from a clone of the repository.",
        ) from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc
    known = {"model", "item", "until", "holdout", "among", "generate", "import"}
    wrong = sorted(set(table) - known)
    missing = sorted({"model", "item"} - set(table))
    if wrong or missing:
        raise ConfigError(
            f"{path}: unknown {wrong}, missing {missing}",
            hint=f"Known keys: {', '.join(sorted(known))}.",
        )
    until = table.get("until")
    if until is not None and not (isinstance(until, datetime) and until.tzinfo):
        raise ConfigError(f"{path}: until must be a time with a zone")
    if (until is None) == ("holdout" not in table):
        raise ConfigError(f"{path} needs either 'until' or 'holdout'")
    imports = cast(Mapping[str, str], table.pop("import", {}))
    return Preset(folder=folder, data=data, imports=imports, **table)


def is_loaded(conn: Connection, config: ModelConfig) -> bool:
    """Tell whether the preset's tables are there: they came in one transaction."""
    try:
        with conn.transaction():
            source = config.interactions.sql
            conn.execute(_sql.trusted(f"select from ({source}\n) as source limit 0"))
    except pg.UndefinedTable:
        return False
    return True


def load(conn: Connection, preset: Preset, progress: Progress) -> None:
    """Import or generate the tables; the caller commits.

    Raises:
        SourceError: A file cannot be read.
        ConfigError: A table of that name exists.
    """
    for table, name in preset.imports.items():
        import_csv(conn, preset.data / name, table, progress=progress)
    if preset.generate:
        with progress.stage("Generating the shop's own tables"):
            runpy.run_path(str(preset.folder / preset.generate))["fill"](conn)
    setup = preset.folder / "setup.sql"
    if setup.is_file():
        with progress.stage("Running setup.sql"):
            conn.execute(setup.read_bytes())
