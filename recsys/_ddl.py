"""Run SQL files and texts inside an alembic revision."""

from __future__ import annotations

from alembic import op

from recsys import _sql


def run(name: str) -> None:
    """Execute one file under ``sql/`` exactly as written."""
    run_text(_sql.read(name))


def run_text(text: str) -> None:
    """Execute SQL exactly as written, or print it under ``--sql``.

    ``op.execute()`` would read ``:name`` as a bind parameter and psycopg would read
    ``%`` as a placeholder. Sending the text with no parameters avoids both.
    """
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(text.strip() + "\n")
    else:
        op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})
