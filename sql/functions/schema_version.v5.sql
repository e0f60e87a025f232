-- recsys.schema_version: the core revision this database is at
--
-- Read by recsys.schema.check() at start, without alembic. Each core revision replaces it.

create or replace function recsys.schema_version()
returns text
language sql immutable parallel safe
return '0005';

comment on function recsys.schema_version() is 'The core revision this database is at.';
