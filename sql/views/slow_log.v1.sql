-- recsys.slow_log: the slow requests that were kept, with the stage that took longest

create view recsys.slow_log as
select
    s.occurred_at,
    s.model,
    s.version,
    s.channel,
    s.total_ms,
    case greatest(s.connection_ms, s.state_ms, s.tower_ms, s.candidates_ms)
        when 0 then 'unknown'
        when s.candidates_ms then 'candidates'
        when s.state_ms then 'state'
        when s.connection_ms then 'connection'
        else 'tower'
    end as slowest,
    s.connection_ms,
    s.state_ms,
    s.tower_ms,
    s.candidates_ms,
    s.k,
    s.returned,
    s.degraded,
    s.error,
    s.request_id,
    s.user_id,
    s.filter,
    s.plan,
    s.plan_error
from recsys.slow_request as s;

comment on view recsys.slow_log is
    'Slow requests that were kept: the time of each stage, the filter, and the plans of the statements.';
