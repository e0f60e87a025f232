"""Learning: incremental updates of the learned rows, kept vectors of texts.

A downgrade drops the log of incremental updates but leaves the rows that they moved:
after upgrading again, versions that were updated learn the same interactions a second
time. Undo the updates first, or train and promote a new version afterwards.

Safe before new code: no
"""

from recsys import _ddl

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UPDATES = (
    "tables/id_update.v1.sql",
    "views/update_log.v1.sql",
)
SEARCH = ("functions/_candidates.v2.sql",)
TREND = ("tables/item_trend.v1.sql",)
TEXTS = ("tables/text_embedding.v1.sql",)
# Without the library in the session, SET hnsw.* in a function needs a superuser.
LOAD = "select '[1]'::vector;"
# The grants come last: they name what every area made.
GRANTS = ("functions/_grant_part_learning.v1.sql",)


def upgrade() -> None:
    """Make the tables, functions, views and grants of every area."""
    _ddl.run_text(LOAD)
    for name in (*UPDATES, *SEARCH, *TREND, *TEXTS, *GRANTS):
        _ddl.run(name)
    _ddl.run("functions/schema_version.v4.sql")
    _ddl.run("functions/_grant_core.v2.sql")


def downgrade() -> None:
    """Remove them."""
    _ddl.run_text(LOAD)
    _ddl.run("drop_learning.v1.sql")
    _ddl.run("functions/_candidates.v1.sql")
    _ddl.run("functions/schema_version.v3.sql")
    _ddl.run("functions/_grant_core.v2.sql")
