"""Append a model to recsys.toml, ready to train and commented."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

from recsys._csv import Column
from recsys.config import load

# What a kind usually says about taste; any other starts at 1.
_WEIGHTS = {"view": 1, "click": 1, "cart": 3, "purchase": 5, "dislike": 0}
_MOST_KINDS = 20

_SECTION = """\
# {model}: made by 'recsys import'. Item features (title, category, price, ...) would
# let it recommend items nobody has touched yet: select them in items.sql and declare
# them under [model.{model}.items.features].
[model.{model}]
item_id = "{item_id}"
user_id = "{user_id}"

[model.{model}.items]
sql = "select distinct item_id from {table}"

[model.{model}.interactions]
sql = "select {columns} from {table}"
# record() writes new events here.
record = "insert into {table} ({columns}) values ({values})"
{weights}
# Published numbers come from exact rankings: let the index miss next to nothing.
[model.{model}.index]
recall_target = 0.99
"""

_KINDS = """
# How much each kind says about taste; 0 means: seen, but not liked. Please check.
[model.{model}.interactions.weights]
{weights}
"""


def declare(
    path: Path,
    model: str,
    table: str,
    columns: Collection[Column],
    kinds: Collection[str],
) -> None:
    """Append a section for an interaction table; the file is made when missing.

    Args:
        path: The recsys.toml; it must not declare the model yet.
        model: Name of the model.
        table: The interaction table.
        columns: Its columns.
        kinds: The distinct values of its column ``kind``.
    """
    types = {column.name: column.type for column in columns}
    known = ("user_id", "item_id", "occurred_at", "kind")
    names = [name for name in known if name in types]
    section = _SECTION.format(
        model=model,
        table=table,
        item_id=types["item_id"],
        user_id=types["user_id"],
        columns=", ".join(names),
        values=", ".join(f"%({name})s" for name in names),
        weights=_weights(model, kinds),
    )
    before = path.read_text(encoding="utf-8").rstrip("\n") if path.exists() else ""
    text = f"{before}\n\n{section}" if before else section
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside it and checked first: a reader never sees half a file.
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    load(draft)
    os.replace(draft, path)


def _weights(model: str, kinds: Collection[str]) -> str:
    if not kinds or len(kinds) > _MOST_KINDS:
        return ""
    # A JSON string is a valid TOML string.
    rows = (f"{json.dumps(kind)} = {_WEIGHTS.get(kind, 1)}" for kind in kinds)
    return _KINDS.format(model=model, weights="\n".join(rows))
