"""The core schema.

Safe before new code: yes
"""

from recsys import _ddl

revision = "0001"
down_revision = None
branch_labels = ("core",)
depends_on = None

TABLES = (
    "model",
    "artifact",
    "model_version",
    "rollout",
    "promotion",
    "interaction",
)
FUNCTIONS = (
    "schema_version",
    "_check_k",
    "_direction",
    "_serving",
    "_next_number",
    "_register_version",
    "_promote",
    "_previous_version",
    "_retire_for_drop",
    "nearest_items",
    "similar_items",
    "recommend",
    "coverage",
)
VIEWS = ("version_status", "version_metric", "switch_log")


def upgrade() -> None:
    """Make tables, functions, views and grants."""
    for name in TABLES:
        _ddl.run(f"tables/{name}.v1.sql")
    for name in FUNCTIONS:
        _ddl.run(f"functions/{name}.v1.sql")
    for name in VIEWS:
        _ddl.run(f"views/{name}.v1.sql")
    _ddl.run("grants.v1.sql")


def downgrade() -> None:
    """Remove everything but the schema, which holds alembic's own table."""
    _ddl.run("drop_core.v1.sql")
