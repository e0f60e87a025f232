-- recsys.experiment_result: results of every started experiment now, one row per metric and arm
--
-- Name the experiment in the where clause, or every one is computed.

create view recsys.experiment_result as
select e.name as experiment, r.*
from recsys.experiment as e
cross join lateral recsys.experiment_result_at(e.name) as r
where e.state <> 'draft';

comment on view recsys.experiment_result is
    'Results of every started experiment now: per metric and arm its mean, its lift over the control, intervals, p-values.';
