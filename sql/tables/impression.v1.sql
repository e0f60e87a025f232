-- recsys.impression: one row per answer, also per failed one
--
-- item_ids     what was shown, best first; position is the order, counted from page_offset + 1
-- scores       one per item
-- channels     one per item, or a single element when all items came from the same channel
-- unit         what was bucketed into a version or an arm; null when the answer was for nobody in particular
-- version      null when the answer failed before a version was known
-- degraded     why the answer is less than a full one; null when it is whole
-- error        what the caller got instead of an answer
--
-- Partitioned by day (UTC) so that forgetting a day is dropping a table, and its indexes stay small. The default
-- partition takes what has no day of its own: no worker has run yet, or a clock is wrong. Ids are text because one
-- table serves every model. The unique key makes a batch that is written twice after a lost connection count once.
--
-- tests: tests/db/test_impressions.py, tests/db/test_impression_tables.py

create table recsys.impression (
    request_id  uuid not null,
    model       text not null,
    version     integer,
    user_id     text,
    unit        text,
    occurred_at timestamptz not null default now(),
    item_ids    text[] not null default '{}',
    scores      real[] not null default '{}',
    channels    text[] not null default '{}',
    page_offset integer not null default 0,
    k           integer not null,
    experiment  text,
    arm         text,
    context     jsonb,
    took_ms     real,
    degraded    text,
    error       text,
    unique (request_id, occurred_at)
) partition by range (occurred_at);

create index impression_model on recsys.impression (model, occurred_at);

create table recsys.impression_default partition of recsys.impression default;

comment on table recsys.impression is
    'One row per logged answer: what was shown to whom, by which version. Partitioned by day.';
