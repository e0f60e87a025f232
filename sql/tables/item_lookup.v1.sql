-- recsys.item_lookup: changed rows of joined tables, whose items are looked up again after the commit
--
-- source  the table, as recsys.capture.lookups names it
-- keys    array of the changed rows, only the columns that the look-up reads
--
-- A capture trigger finds the items of a changed row as far as its transaction sees them. An item that comes to the
-- row in another transaction at the same time sees the row as it was: a worker looks once more when both are done.

create table recsys.item_lookup (
    id         bigint generated always as identity primary key,
    model      text not null,
    source     text not null,
    keys       jsonb not null,
    changed_at timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

comment on table recsys.item_lookup is 'Changed rows of joined tables whose items are looked up after the commit.';
