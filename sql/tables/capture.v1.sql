-- recsys.capture: whether and how the changes of a model's item source are captured
--
-- enabled          the one row that switches the triggers off: update recsys.capture set enabled = false
-- failures         value of the sequence recsys.capture_failure when it was last looked at; when the sequence is
--                  ahead, a trigger could not queue something and swallowed the error
-- reconcile_after  everything is queued again once no transaction older than this one runs; null: nothing to do
-- reconcile_seen   a worker has seen the request committed, and made reconcile_after a transaction of its own:
--                  whoever began before the commit may have missed what was asked for
-- swept_to         changes up to here were found by updated_at, where triggers cannot be
-- reconciled_at    when every item was last queued
-- lookups          joined table -> the query that finds the items of its changed rows, see recsys.item_lookup

create table recsys.capture (
    model           text primary key references recsys.model (name),
    enabled         boolean not null default true,
    failures        bigint not null default 0,
    reconcile_after xid8,
    reconcile_seen  boolean not null default false,
    reason          text not null default '',
    swept_to        timestamptz,
    sweep_at        timestamptz not null default '-infinity',
    reconciled_at   timestamptz not null default now(),
    lookups         jsonb not null default '{}'
);

comment on table recsys.capture is
    'Whether and how the changes of a model''s item source are captured; enabled = false switches the triggers off.';

create sequence recsys.capture_failure;

comment on sequence recsys.capture_failure is
    'Counts what a capture trigger could not queue; not transactional, so that it counts whatever happens.';
