-- recsys.guardrail: bounds that a new version must stay within while its share grows
--
-- metric       error_rate, degraded_rate, short_page_rate, latency_p99_ms, ctr, conversion or revenue
-- kind         'max' absolute, 'max_rise' above the base (rates), 'max_ratio' to the base (latency),
--              'max_drop' below the base as a share of it (ctr, conversion, revenue), 'off' the default is off
-- bound        in the unit of the kind
-- min_sample   fewest answers (of each version, where two are compared) before anything is concluded
-- action       what the ramp does: 'stop' it there, or 'rollback'
--
-- Metrics without a row have the defaults of recsys/guardrails.py.
--
-- tests: tests/db/test_guardrails.py

create table recsys.guardrail (
    model      text not null references recsys.model (name) on delete cascade,
    metric     text not null
               constraint guardrail_metric_is_known check (metric in (
                   'error_rate', 'degraded_rate', 'short_page_rate', 'latency_p99_ms',
                   'ctr', 'conversion', 'revenue')),
    kind       text not null
               constraint guardrail_kind_is_known
               check (kind in ('max', 'max_rise', 'max_ratio', 'max_drop', 'off')),
    bound      double precision not null default 0
               constraint guardrail_bound_is_finite check (bound >= 0 and bound < 'infinity'),
    min_sample integer not null
               constraint guardrail_sample_is_positive check (min_sample > 0),
    action     text not null
               constraint guardrail_action_is_known check (action in ('stop', 'rollback')),
    set_at     timestamptz not null default now(),
    set_by     text not null default session_user,
    primary key (model, metric)
);

comment on table recsys.guardrail is
    'Bounds that a new version must stay within while its share of the users grows.';
