-- recsys.rollout_status: who serves what now, and the ramp that changes it

create view recsys.rollout_status as
select
    r.model,
    r.number,
    case when r.candidate then 'candidate' else 'base' end as role,
    r.percent,
    a.steps   as ramp_steps,
    a.step    as ramp_step,
    a.every   as ramp_every,
    a.next_at as ramp_next_at
from recsys.rollout as r
left join recsys.ramp as a on a.model = r.model and a.number = r.number;

comment on view recsys.rollout_status is 'Which version answers which share of the users, and the ramp that raises it.';
