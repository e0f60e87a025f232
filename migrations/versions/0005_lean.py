"""Lean: recsys.recommend() counts popularity as the query tower does.

Versions that were there before keep counting it alike for everyone in SQL until they
are backfilled again; so do all of them after a downgrade and another upgrade.

Safe before new code: no
"""

from recsys import _ddl

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

LEAN = (
    "tables/lean.v1.sql",
    "functions/_leaning.v1.sql",
    "functions/recommend.v3.sql",
)


def upgrade() -> None:
    """Make the column and its function, replace recsys.recommend()."""
    for name in LEAN:
        _ddl.run(name)
    _ddl.run("functions/schema_version.v5.sql")
    _ddl.run("functions/_grant_core.v2.sql")


def downgrade() -> None:
    """Remove them."""
    _ddl.run("functions/recommend.v2.sql")
    _ddl.run("drop_lean.v1.sql")
    _ddl.run("functions/schema_version.v4.sql")
    _ddl.run("functions/_grant_core.v2.sql")
