-- recsys._experiment_kept: whether impressions and outcomes reach back as far as an experiment looks
--
--   -> in words what may be missing, empty when nothing is
--
-- By the setting and not by the partitions that are there: a worker that is late removes the rest tomorrow.
--
-- tests: tests/db/test_experiment_result.py

create function recsys._experiment_kept(p_experiment text)
returns text
language sql stable
as $function$
    select case when e.started_at is null then ''
                when e.started_at < k.since
                then format('data before %s is not kept, the start was on %s',
                            to_char(k.since at time zone 'UTC', 'YYYY-MM-DD'),
                            to_char(e.started_at at time zone 'UTC', 'YYYY-MM-DD'))
                when e.started_at - make_interval(days => e.covariate_days) < k.since
                then format('data before %s is not kept, so CUPED knows less of the past',
                            to_char(k.since at time zone 'UTC', 'YYYY-MM-DD'))
                else '' end
    from recsys.experiment as e
    left join recsys.retention as r on r.model = e.model
    cross join lateral (select now() - coalesce(r.keep, interval '90 days') as since) as k
    where e.name = p_experiment
$function$;
