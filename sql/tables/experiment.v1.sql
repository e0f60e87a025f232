-- recsys.experiment: one row per experiment on the versions of a model
--
-- state           draft -> running -> stopped, moved by recsys._experiment_start and _experiment_stop only
-- salt            of the buckets: another one per experiment, so that who is in an arm here says nothing about
--                 who is in which arm elsewhere
-- traffic         percent of the users that take part; the rest stays with the rollout
-- alpha           chance of a false alarm
-- expected_users  users, of control and one treatment, at which the confidence sequences are narrowest
-- covariate_days  days before the start that CUPED reads; 0 turns it off
--
-- tests: tests/db/test_experiment_store.py

create table recsys.experiment (
    name           text primary key
                   constraint experiment_name_is_simple check (name ~ '^[a-z][a-z0-9_-]{0,47}$'),
    model          text not null references recsys.model (name),
    salt           text not null unique default replace(gen_random_uuid()::text, '-', ''),
    state          text not null default 'draft'
                   constraint experiment_state_is_known check (state in ('draft', 'running', 'stopped')),
    traffic        numeric(5, 2) not null default 100
                   constraint experiment_traffic_is_a_percentage check (traffic > 0 and traffic <= 100),
    hypothesis     text not null default '',
    primary_metric text not null,
    alpha          float8 not null default 0.05
                   constraint experiment_alpha_is_small check (alpha > 0 and alpha < 0.5),
    expected_users integer not null default 5000
                   constraint experiment_expected_users_is_positive check (expected_users > 0),
    covariate_days integer not null default 14
                   constraint experiment_covariate_days_is_not_negative check (covariate_days between 0 and 365),
    created_at     timestamptz not null default now(),
    created_by     text not null default session_user,
    started_at     timestamptz,
    stopped_at     timestamptz,
    reason         text not null default '',
    constraint experiment_times_fit_its_state check (
        (started_at is null) = (state = 'draft') and (stopped_at is null) = (state <> 'stopped'))
);

-- Two at once would share their users, and a request can be served by one version only.
create unique index experiment_running on recsys.experiment (model) where state = 'running';

comment on table recsys.experiment is 'One row per experiment on the versions of a model.';
