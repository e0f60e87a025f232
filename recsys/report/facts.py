"""Everything a report shows, read from the database; it can be made at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from recsys import _sql, artifacts, versions
from recsys._db import Connection
from recsys._source import source_errors
from recsys.config import ModelConfig
from recsys.errors import ArtifactError, SourceError

_TITLES = ("title", "name", "label", "description")
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Facts:
    """A version and what is known of its training.

    Attributes:
        report: The training's report, see ``TrainedModel``; empty when it is gone.
        metrics: Slice -> method -> metric of the version.
        recall_curve: ef_search and ANN recall@20, by rising ef_search.
        titles: Item id as text -> its title, for items of the samples.
        trials: Rows of a study of ``recsys tune``, if one was given.
        problems: What could not be read, in words.
    """

    model: str
    number: int
    state: str
    created_at: datetime
    created_by: str
    trained_until: str | None
    config: ModelConfig
    report: Mapping[str, Any]
    metrics: Mapping[str, Any]
    item_count: int | None
    ef_search: int | None
    ann_recall: float | None
    recall_curve: Sequence[tuple[float, float]]
    titles: Mapping[str, str]
    trials: Sequence[Any] = ()
    problems: Sequence[str] = field(default_factory=list[str])


def collect(
    conn: Connection, model: str, number: int, *, study: Path | None = None
) -> Facts:
    """Read what the report of a version shows.

    Args:
        conn: An open connection; it is only read from.
        model: Name of the model.
        number: Number of the version, in any state.
        study: Also show the trials of this file.

    Raises:
        UnknownVersion: There is no such version.
        ConfigError: The study cannot be read.
    """
    version = versions.get(conn, model, number)
    problems: list[str] = []
    report = _report(conn, version.artifacts.get("report"), problems)
    titles = _titles(conn, version.config, _samples_ids(report), problems)
    row = conn.execute(
        "select created_at, created_by, coalesce(recall_curve, '[]')"
        " from recsys.model_version where model = %s and number = %s",
        (model, number),
    ).fetchone()
    assert row is not None, "it was read above, in the same transaction"
    created_at, created_by, curve = row
    if version.error:
        problems.append(f"The version's last error: {version.error}")
    return Facts(
        model=model,
        number=number,
        state=version.state,
        created_at=created_at,
        created_by=created_by,
        trained_until=version.spec.get("trained_until"),
        config=version.config,
        report=report,
        metrics=version.metrics,
        item_count=version.item_count,
        ef_search=version.ef_search,
        ann_recall=version.ann_recall,
        recall_curve=[(float(ef), float(recall)) for ef, recall in curve],
        titles=titles,
        trials=_trials(study),
        problems=problems,
    )


def _report(
    conn: Connection, sha256: str | None, problems: list[str]
) -> Mapping[str, Any]:
    if sha256 is None:
        problems.append("This version was made without a report.")
        return {}
    try:
        return json.loads(artifacts.get(conn, sha256))
    except ArtifactError as exc:
        problems.append(f"The report of the training: {exc}.")
        return {}


def _samples_ids(report: Mapping[str, Any]) -> list[Any]:
    return list(
        {
            item: None
            for sample in report.get("samples", [])
            for part in ("history", "list", "hits")
            for item in sample[part]
        }
    )


def _titles(
    conn: Connection, config: ModelConfig, ids: list[Any], problems: list[str]
) -> dict[str, str]:
    """Return what items are called: a text feature, else a column with such a name."""
    if not ids:
        return {}
    source = f"({config.items.sql}\n) as source"
    column = next((f.name for f in config.items.features if f.type == "text"), None)
    try:
        with conn.transaction(), source_errors("items"):
            if column is None:
                cursor = conn.execute(_sql.trusted(f"select * from {source} limit 0"))
                have = [column.name for column in cursor.description or ()]
                column = next((name for name in _TITLES if name in have), None)
            if column is None:
                return {}
            rows = conn.execute(
                _sql.trusted(
                    f'select item_id::text, "{column}"::text'
                    f" from {source.replace('%', '%%')}"
                    f" where item_id = any(%s::{config.item_id}[])"
                ),
                ([str(item) for item in ids],),
            ).fetchall()
    except SourceError as exc:
        problems.append(f"Items are shown by their ids: {exc}.")
        return {}
    return {item: title[:_LONGEST] for item, title in rows if title}


def _trials(study: Path | None) -> Sequence[Any]:
    if study is None:
        return ()
    from recsys import tuning

    return tuning.trials(study)
