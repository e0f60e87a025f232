-- recsys.experiment_health: users per arm of every started experiment now, and the sample ratio test

create view recsys.experiment_health as
select e.name as experiment, h.*
from recsys.experiment as e
cross join lateral recsys.experiment_health_at(e.name) as h
where e.state <> 'draft';

comment on view recsys.experiment_health is
    'Users per arm of every started experiment now, against the plan: a mismatch makes every result worthless.';
