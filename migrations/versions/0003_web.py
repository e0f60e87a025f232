"""Inside web applications: measured recall curves, slow requests.

Safe before new code: no
"""

from recsys import _ddl

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEARCH = (
    "tables/recall_curve.v1.sql",
    "functions/_cost.v1.sql",
    "functions/_candidates.v1.sql",
)
OBSERVE = (
    "tables/slow_request.v1.sql",
    "functions/_keep_slow_request.v1.sql",
    "views/slow_log.v1.sql",
    "functions/_grant_part_web.v1.sql",
)


def upgrade() -> None:
    """Make the tables, functions, views and grants of every area."""
    for name in (*SEARCH, *OBSERVE):
        _ddl.run(name)
    _ddl.run("functions/schema_version.v3.sql")
    _ddl.run("functions/_grant_core.v2.sql")


def downgrade() -> None:
    """Remove them."""
    _ddl.run("drop_web.v1.sql")
    _ddl.run("functions/schema_version.v2.sql")
    _ddl.run("functions/_grant_core.v2.sql")
