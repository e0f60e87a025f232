"""Alembic environment: own schema, own version table, one transaction."""

import psycopg
import sqlalchemy as sa
from alembic import context

from recsys import _db

config = context.config
VERSION_TABLE = {"version_table": "alembic_version", "version_table_schema": "recsys"}
# Two upgrades at once wait for each other; the key is "recsys" in ASCII.
LOCK = "select pg_advisory_xact_lock(125779720173939)"


def run_offline() -> None:
    """Print the statements."""
    context.configure(dialect_name="postgresql", literal_binds=True, **VERSION_TABLE)
    with context.begin_transaction():
        context.get_context().impl.static_output(
            "create schema if not exists recsys;\n"
        )
        context.run_migrations()


def run_online() -> None:
    """Run the statements in one transaction."""

    def connect() -> psycopg.Connection:
        return _db.connect(config.attributes["dsn"])

    # NullPool: an idle connection would keep the database from being a template.
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=connect, poolclass=sa.NullPool
    )
    with engine.connect() as connection:
        # A lock nobody gets must not queue the application's queries behind us.
        connection.exec_driver_sql("set local lock_timeout = '10s'")
        connection.exec_driver_sql(LOCK)
        if not connection.exec_driver_sql(
            "select 1 from pg_catalog.pg_namespace where nspname = 'recsys'"
        ).scalar():
            connection.exec_driver_sql("create schema recsys")
        context.configure(connection=connection, **VERSION_TABLE)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
