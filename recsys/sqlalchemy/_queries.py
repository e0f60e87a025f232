"""SQL and parameters of anything SQLAlchemy can execute and that returns rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

from sqlalchemy import Table, TextClause, event, exc
from sqlalchemy.engine import Dialect, Engine, IteratorResult, Result, make_url
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.orm import ORMExecuteState, Query, Session
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import Executable, FromClause, SelectBase

from recsys.errors import ConfigError
from recsys.sqlalchemy._sources import Lent, SessionSource

_HINT = "Pass a statement such as select(Product.id).where(Product.in_stock)."


def sql_of(
    query: object, columns: int = 1, source: object | None = None
) -> tuple[str, Mapping[str, Any]]:
    """Return the SQL of a query with psycopg's placeholders, and its parameters.

    Args:
        query: A ``select()``, a union of some, ``text()`` with bound parameters, or an
            ORM ``Query``.
        columns: How many columns it must have.
        source: Where it will run. A Session's ``do_orm_execute`` listeners apply, such
            as the criteria of a tenant, and so do an Engine's own types and its
            ``schema_translate_map``.

    Raises:
        ConfigError: It returns no rows, has other columns, lacks a parameter, or is
            over another database.
    """
    statement = _statement(query)
    _check_columns(statement, columns)
    dialect, translated = _plain_dialect(), None
    if isinstance(source, Lent):
        dialect, translated = source.engine.dialect, source.schema_translate_map
    if isinstance(source, SessionSource):
        _check_database(statement, source)
        statement = _with_listeners(statement, source.session)
        _check_columns(statement, columns)
    try:
        compiled = statement.compile(
            dialect=dialect,
            schema_translate_map=translated,
            render_schema_translate=translated is not None,
        )
        return _expanded(compiled, dialect)
    except (exc.CompileError, exc.InvalidRequestError) as error:
        raise ConfigError(
            f"the query cannot be compiled: {error}",
            hint="Give every bindparam() a value: query.params(name=value).",
        ) from error


def _statement(query: object) -> SelectBase | TextClause:
    if isinstance(query, Query):
        query = cast("Query[Any]", query).statement
    if getattr(query, "_for_update_arg", None) is not None:
        raise ConfigError(
            "a query that locks its rows is no filter",
            hint="Leave with_for_update() out: what a filter returns is only read.",
        )
    if isinstance(query, SelectBase | TextClause):
        return query
    what = "a statement that is not one" if isinstance(query, Executable) else ""
    raise ConfigError(
        f"a query must be a select(), got {what or type(query).__name__}",
        hint="A subquery or a CTE goes into one: select(subquery.c.id)."
        if isinstance(query, FromClause)
        else _HINT,
    )


def _check_columns(statement: SelectBase | TextClause, columns: int) -> None:
    """Refuse select(Product) where select(Product.id) is meant."""
    if isinstance(statement, TextClause):
        return  # only the database knows
    found = len(statement.exported_columns)
    if found and found != columns:
        raise ConfigError(
            f"the query has {found} columns, {columns} "
            f"{'is' if columns == 1 else 'are'} needed",
            hint=_HINT
            if columns == 1
            else "Pass a statement such as select(Product.id, Product.category).",
        )


def _check_database(statement: SelectBase | TextClause, source: SessionSource) -> None:
    """Refuse tables that the Session would look for in another database."""
    session, engine = source.session, source.engine
    for element in visitors.iterate(statement):
        if not isinstance(element, Table):
            continue
        table = cast("Table[Any]", element)
        try:
            place: Engine = session.get_bind(clause=table).engine
        except exc.UnboundExecutionError:
            continue
        # An engine with options is another object on the same pool.
        if place.pool is not engine.pool and place.url != engine.url:
            raise ConfigError(
                f"the query reads {table.fullname}, which this Session keeps in "
                "another database than the recommendations",
                hint="A filter is a join: fetch the ids first and pass "
                "among=select(Product.id).where(Product.id.in_(ids)).",
            )


def _with_listeners(
    statement: SelectBase | TextClause, session: Session
) -> SelectBase | TextClause:
    """Return the statement as the Session would execute it.

    ``do_orm_execute`` is how applications hide deleted rows and other tenants' from
    every query. A filter that forgot them would recommend what must not be seen.
    """
    if not session.dispatch.do_orm_execute:
        return statement
    seen: list[Any] = []

    def caught(state: ORMExecuteState) -> Result[Any]:
        # Last in line; a result ends the execution before the database is asked.
        seen.append(state.statement)
        return IteratorResult(SimpleResultMetaData([]), iter(()))

    event.listen(session, "do_orm_execute", caught)
    try:
        with session.no_autoflush:
            session.execute(cast("Executable", statement))
    finally:
        event.remove(session, "do_orm_execute", caught)
    if not seen:
        raise ConfigError(
            "a do_orm_execute listener of the Session answered the filter itself",
            hint="Let it pass statements that no cache option names.",
        )
    return seen[0]


def _expanded(compiled: SQLCompiler, dialect: Dialect) -> tuple[str, dict[str, Any]]:
    """Return the text with one placeholder per value, and the values for the driver."""
    state = compiled.construct_expanded_state()
    escaped = compiled.escaped_bind_names
    processors: dict[str, Any] = {}
    for name, parameter in compiled.binds.items():
        processor = parameter.type.dialect_impl(dialect).bind_processor(dialect)
        if processor is not None:
            processors[escaped.get(name, name)] = processor
    processors.update(state.processors)
    given: Mapping[str, Any] = state.parameters
    values = {
        name: _processed(processors[name], value) if name in processors else value
        for name, value in given.items()
    }
    return state.statement, values


def _processed(processor: Callable[[Any], Any], value: object) -> object:
    """Return a value as its type sends it; what a type raises is up to the type."""
    try:
        return processor(value)
    except Exception as error:
        raise ConfigError(
            f"a parameter of the query is no value of its type: {error}",
            hint="Its column's type refuses it, as it would in any other statement.",
        ) from error


@cache
def _plain_dialect() -> Dialect:
    """The dialect of a database that SQLAlchemy does not connect to."""
    return make_url("postgresql+psycopg://").get_dialect()()
