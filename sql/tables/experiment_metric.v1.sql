-- recsys.experiment_metric: what an experiment measures, numerator / denominator, each summed over users
--
-- A measure is one of
--   users        1 per exposed user
--   impressions  answers to the user, failed ones too, as in recsys.version_outcome
--   clicks       answers that led to an outcome of any kind, as in recsys.version_outcome
--   items        items shown to the user
--   count(KIND)  outcomes of a kind; * is every kind
--   any(KIND)    1 if there was one
--   sum(KIND)    sum of their values
--
-- tests: tests/db/test_experiment_result.py

create table recsys.experiment_metric (
    experiment  text not null references recsys.experiment (name) on delete cascade,
    metric      text not null
                constraint experiment_metric_name_is_simple check (metric ~ '^[a-z][a-z0-9_]{0,47}$'),
    numerator   text not null
                constraint experiment_metric_numerator_is_a_measure
                check (numerator ~ '^(impressions|clicks|items|(count|any|sum)\([^()]+\))$'),
    denominator text not null default 'users'
                constraint experiment_metric_denominator_is_a_measure
                check (denominator ~ '^(users|impressions|clicks|items|(count|any)\([^()]+\))$'),
    primary key (experiment, metric)
);

comment on table recsys.experiment_metric is 'What an experiment measures: numerator and denominator, summed over users.';
