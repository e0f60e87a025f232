-- recsys.retention: how long the impressions and outcomes of a model are kept
--
-- A model without a row keeps them for 90 days. Days are dropped whole when the model that keeps longest no longer
-- needs them; the rows of models that keep less are deleted by then.
--
-- tests: tests/db/test_impression_tables.py

create table recsys.retention (
    model text primary key references recsys.model (name) on delete cascade,
    keep  interval not null
          constraint retention_is_at_least_a_day check (keep >= interval '1 day')
);

comment on table recsys.retention is
    'How long the impressions and outcomes of a model are kept; 90 days without a row.';
