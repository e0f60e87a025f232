-- recsys.item_gone: what workers leave to the backfill of a version
--
-- A backfill reads its chunk, encodes it and writes later. What was deleted in between must not come back: it
-- leaves out the items named here. Each pass clears the list before it reads the source.
--
-- While the index is built, which locks writers out, whatever changes is noted here, too, and the backfill brings it
-- when the index is there (recsys/_late.py). Rows are never just deleted: their items are queued again.

create table recsys.item_gone (
    model   text not null,
    number  integer not null,
    item_id text not null,
    primary key (model, number, item_id)
);

comment on table recsys.item_gone is 'Items that workers leave to the backfill of a version.';
