-- recsys.item_gone: items that a worker deleted from a version while a backfill loads it
--
-- A backfill reads its chunk, encodes it and writes later. What was deleted in between must not come back: it
-- leaves out the items named here. Each pass clears the list before it reads the source.

create table recsys.item_gone (
    model   text not null,
    number  integer not null,
    item_id text not null,
    primary key (model, number, item_id)
);

comment on table recsys.item_gone is 'Items deleted from a version while a backfill loads it.';
