"""The tables of the schema ``recsys`` that an application may meet.

Interactions, impressions, outcomes and exposures are written by requests; the others
say which versions there are and who serves. Reports read the views: see ``views``. The
columns are those of this release and may change with the next.
"""

from __future__ import annotations

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    Interval,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

__all__ = [
    "exposure",
    "impression",
    "interaction",
    "metadata",
    "model",
    "model_version",
    "outcome",
    "promotion",
    "retention",
    "rollout",
]

_TIME = DateTime(timezone=True)

metadata = MetaData(schema="recsys")

model = Table(
    "model",
    metadata,
    Column("name", Text, primary_key=True),
    Column("item_type", Text, nullable=False),
    Column("user_type", Text, nullable=False),
    Column("last_number", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("salt", Text, nullable=False),
    Column("keep_versions", Integer, nullable=False),
    Column("grace", Interval, nullable=False),
)
model_version = Table(
    "model_version",
    metadata,
    Column("model", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", Text, nullable=False),
    Column("dim", Integer, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("artifacts", JSONB, nullable=False),
    Column("metrics", JSONB, nullable=False),
    Column("default_query", ARRAY(REAL)),
    Column("phase", Text, nullable=False),
    Column("rows_done", BigInteger, nullable=False),
    Column("rows_total", BigInteger),
    Column("phase_started_at", _TIME, nullable=False),
    Column("item_count", BigInteger),
    Column("source_count", BigInteger),
    Column("ef_search", Integer),
    Column("ann_recall", REAL),
    Column("error", Text),
    Column("created_at", _TIME, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("ready_at", _TIME),
    Column("trained_until", _TIME),
    Column("last_served_at", _TIME),
    Column("retired_at", _TIME),
    Column("recall_curve", JSONB),
    Column("lean", ARRAY(REAL)),
)
rollout = Table(
    "rollout",
    metadata,
    Column("model", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("percent", Numeric(5, 2), nullable=False),
    Column("candidate", Boolean, nullable=False),
)
promotion = Table(
    "promotion",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("model", Text, nullable=False),
    Column("number", Integer),
    Column("from_number", Integer),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("promoted_at", _TIME, nullable=False),
    Column("promoted_by", Text, nullable=False),
    Column("percent", Numeric(5, 2), nullable=False),
)
retention = Table(
    "retention",
    metadata,
    Column("model", Text, primary_key=True),
    Column("keep", Interval, nullable=False),
)
interaction = Table(
    "interaction",
    metadata,
    Column("model", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("occurred_at", _TIME, nullable=False),
    Column("request_id", Uuid),
)
impression = Table(
    "impression",
    metadata,
    Column("request_id", Uuid, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer),
    Column("user_id", Text),
    Column("unit", Text),
    Column("occurred_at", _TIME, nullable=False),
    Column("item_ids", ARRAY(Text), nullable=False),
    Column("scores", ARRAY(REAL), nullable=False),
    Column("channels", ARRAY(Text), nullable=False),
    Column("page_offset", Integer, nullable=False),
    Column("k", Integer, nullable=False),
    Column("experiment", Text),
    Column("arm", Text),
    Column("context", JSONB),
    Column("took_ms", REAL),
    Column("degraded", Text),
    Column("error", Text),
)
outcome = Table(
    "outcome",
    metadata,
    Column("request_id", Uuid),
    Column("model", Text, nullable=False),
    Column("user_id", Text),
    Column("item_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Numeric),
    Column("occurred_at", _TIME, nullable=False),
)
exposure = Table(
    "exposure",
    metadata,
    Column("experiment", Text, primary_key=True),
    Column("unit", Text, primary_key=True),
    Column("arm", Text, nullable=False),
    Column("first_at", _TIME, nullable=False),
)
