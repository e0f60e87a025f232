"""Migration operations: the recsys schema, model versions and capture triggers.

They do something on the database that RECSYS["DATABASE"] names, and nothing on others.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import router
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from recsys import capture, config, schema
from recsys._db import Connection
from recsys.config import ModelConfig, ProjectConfig
from recsys.django import conf
from recsys.django._source import DjangoSource
from recsys.django._terms import told
from recsys.errors import ConfigError, RecsysError

logger = logging.getLogger("recsys")
_Editor = BaseDatabaseSchemaEditor


class _RecsysOperation(Operation):
    """Something outside of Django's models."""

    reduces_to_sql = True
    reversible = True
    elidable = False

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Change nothing that Django knows of."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: _Editor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Do it, on the database of recsys."""
        with _told():
            if _is_ours(app_label, schema_editor):
                self.up(schema_editor)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: _Editor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        """Undo it, on the database of recsys."""
        with _told():
            if _is_ours(app_label, schema_editor):
                self.down(schema_editor)

    def up(self, editor: _Editor) -> None:
        """Do it."""
        raise NotImplementedError

    def down(self, editor: _Editor) -> None:
        """Undo it."""
        raise NotImplementedError


@contextmanager
def _told() -> Generator[None]:
    """Let 'manage.py migrate' print an error and its hint, and no traceback."""
    try:
        yield
    except RecsysError as exc:
        raise CommandError(told(exc)) from exc


def _is_ours(app_label: str, editor: _Editor) -> bool:
    alias = editor.connection.alias
    return alias == conf.current().database and bool(
        router.allow_migrate(alias, app_label)
    )


class UpgradeSchema(_RecsysOperation):
    """Bring the recsys schema to a core revision; the app's own migrations do that.

    The schema has its own history (recsys.alembic_version), so it does not matter
    whether ``manage.py migrate`` or ``recsys upgrade`` came first.

    Args:
        revision: The core revision.
        before: The one before it; "base" for none.
    """

    def __init__(self, revision: str, before: str) -> None:
        self.revision = revision
        self.before = before

    def describe(self) -> str:
        """Return what ``migrate --plan`` prints."""
        return f"Upgrade the recsys schema to {self.revision}"

    def up(self, editor: _Editor) -> None:
        """Upgrade, on a connection of alembic's own."""
        dsn = DjangoSource(editor.connection.alias).dsn()
        if editor.collect_sql:
            span = self.revision
            if self.before != "base":
                span = f"{self.before}:{span}"
            out = io.StringIO()
            schema.upgrade(dsn, revision=span, sql=True, output=out)
            editor.collected_sql.append(out.getvalue())
            return
        _check_alone(editor)
        schema.upgrade(dsn, revision=self.revision)

    def down(self, editor: _Editor) -> None:
        """Downgrade; with the whole schema go the model versions in it."""
        dsn = DjangoSource(editor.connection.alias).dsn()
        folder = _folder()
        if editor.collect_sql:
            span = f"{self.revision}:{self.before}"
            out = io.StringIO()
            schema.downgrade(dsn, revision=span, sql=True, output=out)
            editor.collected_sql.append(out.getvalue())
            return
        _check_alone(editor)
        schema.downgrade(dsn, folder, revision=self.before)


class UpgradeModels(_RecsysOperation):
    """Make the model versions of the revision files, up to one of them.

    What ``manage.py recsys upgrade`` does, as a step of the application's own
    migrations. The migration must say ``atomic = False``. A database without a single
    artifact (a test database, a new colleague's) gets no versions, and a line in the
    log: there is nothing to make them of.

    Args:
        revision: Such as "shop_2"; all of them when left out.
    """

    def __init__(self, revision: str = "heads") -> None:
        self.revision = revision

    def describe(self) -> str:
        """Return what ``migrate --plan`` prints."""
        return f"Make the recsys model versions up to {self.revision}"

    def up(self, editor: _Editor) -> None:
        """Upgrade, on a connection of alembic's own."""
        dsn = DjangoSource(editor.connection.alias).dsn()
        if editor.collect_sql:
            editor.collected_sql.append(f"-- recsys upgrade --revision {self.revision}")
            return
        _check_alone(editor)
        with DjangoSource(editor.connection.alias).use() as conn:
            row = conn.execute("select exists (select from recsys.artifact)").fetchone()
        if not row or not row[0]:
            logger.warning(
                "no model version was made up to %s: this database holds no artifacts;"
                " 'recsys artifacts import' brings them, 'recsys upgrade' goes on",
                self.revision,
            )
            return
        schema.upgrade(dsn, _folder(), revision=self.revision)

    def down(self, editor: _Editor) -> None:
        """Drop the version; one that serves hands over to the one before it.

        Raises:
            ConfigError: The operation names no revision to go back from.
        """
        if self.revision == "heads":
            raise ConfigError(
                "UpgradeModels() without a revision cannot be reversed",
                hint="Name the version, such as UpgradeModels('shop_2').",
            )
        if editor.collect_sql:
            return
        _check_alone(editor)
        dsn = DjangoSource(editor.connection.alias).dsn()
        model, _, number = self.revision.rpartition("_")
        with DjangoSource(editor.connection.alias).use() as conn:
            made = conn.execute(
                "select from recsys.model_version where model = %s and number = %s",
                (model, int(number)),
            ).fetchone()
        if made is None:
            return
        schema.downgrade(dsn, _folder(), revision=_below(dsn, self.revision))


class WatchModel(_RecsysOperation):
    """Put the capture triggers of a model on the application's tables.

    What ``manage.py recsys watch`` does, in the migration's own transaction. It reads
    the item source and ``items.watch`` of recsys.toml as they are when it runs. A model
    that was never trained is registered, so that its triggers have something to name.

    Args:
        model: Name of the model in recsys.toml.
    """

    def __init__(self, model: str) -> None:
        self.model = model

    def describe(self) -> str:
        """Return what ``migrate --plan`` prints."""
        return f"Capture the changes that concern the recsys model {self.model}"

    def up(self, editor: _Editor) -> None:
        """Install the triggers."""
        if editor.collect_sql:
            editor.collected_sql.append(f"-- recsys watch {self.model}")
            return
        with DjangoSource(editor.connection.alias).use() as conn:
            model = _model(self.model)
            _register(conn, model)
            for note in capture.watch(conn, model).notes:
                logger.info("recsys watch %s: %s", self.model, note)

    def down(self, editor: _Editor) -> None:
        """Remove the triggers."""
        if not editor.collect_sql:
            with DjangoSource(editor.connection.alias).use() as conn:
                capture.unwatch(conn, self.model)


def _register(conn: Connection, model: ModelConfig) -> None:
    conn.execute(
        "insert into recsys.model (name, item_type, user_type) values (%s, %s, %s)"
        " on conflict (name) do nothing",
        (model.name, model.item_id, model.user_id),
    )


def _project() -> ProjectConfig:
    return config.load(conf.current().config)


def _model(name: str) -> ModelConfig:
    return _project().model(name)


def _folder() -> Path | None:
    """Return the folder of model revisions, when there is a recsys.toml."""
    return _project().versions if conf.current().config.exists() else None


def _below(dsn: str, revision: str) -> str:
    """Return the revision below one, as alembic names it."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(schema.alembic_config(dsn, _folder()))
    found: Any = script.get_revision(revision)
    down = found.down_revision
    return down if isinstance(down, str) else f"{revision}@base"


def _check_alone(editor: _Editor) -> None:
    """Refuse a transaction whose locks the other connection would wait for.

    Raises:
        ConfigError: The migration is atomic.
    """
    if editor.connection.in_atomic_block:
        raise ConfigError(
            "this migration must not be atomic: recsys upgrades on a connection of its"
            " own",
            hint="Say 'atomic = False' in the Migration class.",
        )
