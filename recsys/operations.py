"""Alembic operations that make and drop a model version.

A revision file imports this module, which registers ``op.create_model_version`` and
``op.drop_model_version``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alembic import context as alembic_context
from alembic.operations import MigrateOperation, Operations

from recsys import _ddl, versions
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
