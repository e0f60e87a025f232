-- recsys.experiment_status: every experiment with its arms, newest first

create view recsys.experiment_status as
select
    e.name as experiment, e.model, e.state, e.traffic,
    (select string_agg(format('%s=%s:%s%s', a.arm, a.number, a.share::float8, case when a.is_control then '*' else '' end),
                       ' ' order by a.is_control desc, a.arm)
     from recsys.experiment_arm as a where a.experiment = e.name)             as arms,
    e.primary_metric, e.alpha, e.expected_users, e.covariate_days, e.hypothesis,
    e.created_at, e.created_by, e.started_at, e.stopped_at, e.reason
from recsys.experiment as e
order by e.created_at desc, e.name;

comment on view recsys.experiment_status is
    'Every experiment with its arms as arm=version:share, the control marked by a star.';
