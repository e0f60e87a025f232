"""Live versions: change capture, rollouts, comparison, impressions, experiments.

Safe before new code: no
"""

from recsys import _ddl

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LIVE = ()
COMPARISON = (
    "tables/comparison.v1.sql",
    "views/version_comparison.v1.sql",
    "functions/_grant_part_comparison.v1.sql",
)
IMPRESSIONS = (
    "tables/impression.v1.sql",
    "tables/outcome.v1.sql",
    "tables/retention.v1.sql",
    "tables/guardrail.v1.sql",
    "views/impression_item.v1.sql",
    "views/version_outcome.v1.sql",
    "functions/_log_answers.v1.sql",
    "functions/_make_partitions.v1.sql",
    "functions/_drop_old_partitions.v1.sql",
    "functions/_grant_part_impressions.v1.sql",
)
EXPERIMENTS = ()


def upgrade() -> None:
    """Make the tables, functions, views and grants of every area."""
    for name in (*LIVE, *COMPARISON, *IMPRESSIONS, *EXPERIMENTS):
        _ddl.run(name)
    _ddl.run("functions/schema_version.v2.sql")
    _ddl.run("functions/_grant_core.v2.sql")


def downgrade() -> None:
    """Remove them, the last area first."""
    for area in ("experiments", "impressions", "comparison", "live"):
        _ddl.run(f"drop_{area}.v1.sql")
    _ddl.run("functions/schema_version.v1.sql")
    _ddl.run_text("drop function recsys._grant_core(), recsys._grant_version(text);")
    _ddl.run("grants.v1.sql")
