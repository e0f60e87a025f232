-- recsys.audit: every transition of every model, append-only
--
-- kind     state (of a version), promote, percent, rollback, drop, retire, ramp, guardrail, capture, experiment, ...
-- before, after  what changed: a state, or the rollout as {"1": 90, "2": 10}
-- numbers  what was known of the version at that time
--
-- Rows outlive the versions they name. Trainers may add rows, never change them.

create table recsys.audit (
    id          bigint generated always as identity primary key,
    at          timestamptz not null default clock_timestamp(),
    who         text not null default session_user,
    application text not null default current_setting('application_name', true),
    model       text not null,
    number      integer,
    kind        text not null,
    before      jsonb,
    after       jsonb,
    reason      text not null default '',
    numbers     jsonb not null default '{}'
);

create index audit_model on recsys.audit (model, id desc);

comment on table recsys.audit is
    'Every transition: who, when, from, to, why, and what was known of the version at that time.';
