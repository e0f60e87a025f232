-- recsys.outcome: what users did, tied to the answer that led to it where that is known
--
-- request_id   page.request_id of the answer, null when the outcome is tied to none
-- value        what it was worth, such as revenue; null when nothing was said
--
-- Written by record() in the transaction of the interaction. Partitioned by day and forgotten like recsys.impression,
-- because an outcome without its impression says nothing about a version. What training needs is in
-- recsys.interaction or in the application's own table and stays.
--
-- tests: tests/db/test_impressions.py, tests/db/test_impression_tables.py

create table recsys.outcome (
    request_id  uuid,
    model       text not null,
    user_id     text,
    item_id     text not null,
    kind        text not null,
    value       numeric,
    occurred_at timestamptz not null default now()
) partition by range (occurred_at);

create index outcome_request on recsys.outcome (request_id) where request_id is not null;
create index outcome_model on recsys.outcome (model, occurred_at);

create table recsys.outcome_default partition of recsys.outcome default;

comment on table recsys.outcome is
    'What users did, with the answer that led to it and its value. Partitioned by day.';
