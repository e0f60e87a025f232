-- recsys.item_failure: items whose vector could not be made, with the error
--
-- retry_at  when a worker tries again; null: it was tried often enough, see recsys.dead_letter

create table recsys.item_failure (
    model     text not null,
    number    integer not null,
    item_id   text not null,
    attempts  integer not null default 1,
    error     text not null,
    failed_at timestamptz not null default now(),
    since     timestamptz not null default now(),
    retry_at  timestamptz,
    primary key (model, number, item_id)
);

create index item_failure_retry on recsys.item_failure (model, retry_at) where retry_at is not null;

comment on table recsys.item_failure is 'Items whose vector could not be made: the error, and when it is tried again.';
