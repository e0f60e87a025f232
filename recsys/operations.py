"""Alembic operations: make and drop a model version, capture changes and stop it.

A revision file imports this module, which registers ``op.create_model_version``,
``op.drop_model_version``, ``op.capture_changes`` and ``op.stop_capturing``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alembic import context as alembic_context
from alembic.operations import MigrateOperation, Operations

from recsys import _ddl, capture, versions
from recsys.config import IdType


@Operations.register_operation("create_model_version")
class CreateModelVersion(MigrateOperation):
    """Register a model version and make its tables and functions."""

    def __init__(self, plan: versions.VersionPlan) -> None:
        self.plan = plan

    @classmethod
    def create_model_version(
        cls,
        operations: Operations,
        model: str,
        number: int,
        *,
        spec: Mapping[str, Any],
        artifacts: Mapping[str, str],
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Register a model version as building and make its tables and functions.

        Args:
            operations: Alembic's operations.
            model: Name of the model.
            number: Version number, from 1.
            spec: The configuration it was trained with.
            artifacts: Name to sha256; each must be in ``recsys.artifact``.
            metrics: Headline metrics by slice and method.

        Example:
            >>> op.create_model_version("shop", 1, spec=SPEC, artifacts=ARTIFACTS)

        Source:
            sql/model/tables.sql, sql/model/state.sql, sql/model/search.sql
        """
        operations.invoke(
            cls(versions.VersionPlan(model, number, spec, artifacts, metrics or {}))
        )

    def reverse(self) -> DropModelVersion:
        """Return the operation that undoes this one."""
        config = self.plan.config
        return DropModelVersion(
            self.plan.model, self.plan.number, config.item_id, config.user_id
        )


@Operations.register_operation("drop_model_version")
class DropModelVersion(MigrateOperation):
    """Hand serving over and remove a model version."""

    def __init__(
        self, model: str, number: int, item_id: IdType, user_id: IdType
    ) -> None:
        self.model = model
        self.number = number
        self.item_id: IdType = item_id
        self.user_id: IdType = user_id

    @classmethod
    def drop_model_version(
        cls,
        operations: Operations,
        model: str,
        number: int,
        *,
        item_id: IdType,
        user_id: IdType,
    ) -> None:
        """Hand serving to the version before, then remove this one.

        Refuses when it serves and no earlier version can take over, unless the
        downgrade runs with ``-x stop_serving=yes`` (``recsys downgrade
        --stop-serving``).

        Args:
            operations: Alembic's operations.
            model: Name of the model.
            number: Version number.
            item_id: Type of the model's item ids.
            user_id: Type of the model's user ids.

        Example:
            >>> op.drop_model_version("shop", 1, item_id="bigint", user_id="bigint")

        Source:
            sql/model/drop.sql, sql/functions/_retire_for_drop.v1.sql
        """
        operations.invoke(cls(model, number, item_id, user_id))


@Operations.register_operation("capture_changes")
class CaptureChanges(MigrateOperation):
    """Capture the changes of a table for a model."""

    def __init__(self, model: str, table: capture.TableCapture) -> None:
        self.model = model
        self.table = table

    @classmethod
    def capture_changes(
        cls,
        operations: Operations,
        model: str,
        table: str,
        *,
        item: str,
        columns: Mapping[str, str],
        keys: Sequence[str] = (),
        by_row: bool = False,
    ) -> None:
        """Put the capture triggers of a model on a table.

        ``recsys watch`` finds the arguments by itself; a migration states them, so that
        it does the same everywhere and can be printed by ``--sql``.

        Args:
            operations: Alembic's operations.
            model: Name of the model.
            table: Schema-qualified name.
            item: Its column that holds the item id, or a query over ``changed``.
            columns: Column -> type: whose change concerns an item.
            keys: Columns that ``item`` reads; default ``item`` itself.
            by_row: For partitioned tables.

        Example:
            >>> op.capture_changes(
            ...     "shop", "public.product", item="id", columns={"title": "text"}
            ... )

        Source:
            sql/capture/statement.sql, sql/capture/row.sql
        """
        named = capture.TableCapture(table, item, columns, keys or [item], by_row)
        operations.invoke(cls(model, named))

    def reverse(self) -> StopCapturing:
        """Return the operation that undoes this one."""
        return StopCapturing(self.model, self.table.table)


@Operations.register_operation("stop_capturing")
class StopCapturing(MigrateOperation):
    """Stop capturing the changes of a table for a model."""

    def __init__(self, model: str, table: str) -> None:
        self.model = model
        self.table = table

    @classmethod
    def stop_capturing(cls, operations: Operations, model: str, table: str) -> None:
        """Remove the capture triggers of a model from a table.

        Args:
            operations: Alembic's operations.
            model: Name of the model.
            table: Schema-qualified name, as given to ``capture_changes``.

        Example:
            >>> op.stop_capturing("shop", "public.product")
        """
        operations.invoke(cls(model, table))


@Operations.implementation_for(CaptureChanges)
def _capture(operations: Operations, operation: CaptureChanges) -> None:
    del operations
    for statement in capture.statements(None, operation.model, [operation.table]):
        _ddl.run_text(_terminated(statement))


@Operations.implementation_for(StopCapturing)
def _stop(operations: Operations, operation: StopCapturing) -> None:
    del operations
    name = capture.function_name(operation.model, operation.table)
    _ddl.run_text(f"drop function if exists recsys.{name}() cascade;")


@Operations.implementation_for(CreateModelVersion)
def _create(operations: Operations, operation: CreateModelVersion) -> None:
    del operations
    for statement in versions.create_statements(operation.plan):
        _ddl.run_text(_terminated(statement))


@Operations.implementation_for(DropModelVersion)
def _drop(operations: Operations, operation: DropModelVersion) -> None:
    del operations
    arguments = alembic_context.get_x_argument(as_dictionary=True)
    for statement in versions.drop_statements(
        operation.model,
        operation.number,
        item_id=operation.item_id,
        user_id=operation.user_id,
        stop_serving=arguments.get("stop_serving") == "yes",
    ):
        _ddl.run_text(_terminated(statement))


def _terminated(statement: str) -> str:
    return statement.rstrip().rstrip(";") + ";"
