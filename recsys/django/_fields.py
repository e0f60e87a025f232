"""A primary key made of the columns that identify a row of a view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from django.db import models
from django.db.models.expressions import Col


class RowKey(models.CharField):  # pyright: ignore[reportMissingTypeArgument] # no runtime generics
    """Columns joined by a colon, such as "shop:2": the views have no single key.

    Django 4.2 knows no composite keys, and its admin none at all.

    Args:
        columns: The columns that identify a row.
    """

    def __init__(self, *columns: str, **kwargs: Any) -> None:
        self.columns = columns
        super().__init__(
            **{"primary_key": True, "max_length": 255, "editable": False, **kwargs}
        )

    def deconstruct(self) -> tuple[str, str, list[Any], dict[str, Any]]:
        """Return what a migration writes."""
        name, path, args, kwargs = super().deconstruct()
        return name, path, [*args, *self.columns], kwargs

    def get_col(self, alias: str, output_field: Any = None) -> Any:
        """Return the expression that a query selects, filters and orders by."""
        return cast("Any", _Joined)(alias, self, output_field)

    @property
    def cached_col(self) -> Any:
        """Return it for the model's own table."""
        return self.get_col(self.model._meta.db_table)


class _Joined(Col):
    """The expression of a RowKey."""

    def as_sql(
        self, compiler: Any, connection: Any, **extra_context: Any
    ) -> tuple[str, tuple[Any, ...]]:
        """Return the columns, joined."""
        del connection, extra_context
        held = cast("Any", self)
        # Its name from Django 6.1 on, which warns of the old one.
        quote = getattr(compiler, "quote_name", None)
        if quote is None:
            quote = compiler.quote_name_unless_alias
        parts = [
            f"{quote(held.alias)}.{compiler.connection.ops.quote_name(column)}"
            for column in held.target.columns
        ]
        joined = " || ':' || ".join(parts)
        return f"({joined})", ()


row_key = cast("Callable[..., models.CharField[str]]", RowKey)
"""RowKey, where the stubs would have a CharField's own arguments."""
