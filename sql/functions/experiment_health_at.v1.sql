-- recsys.experiment_health_at: users per arm against the plan, as it was at a time
--
--   experiment, at
--   -> one row per arm; see recsys.experiment_health
--   raises 22023 unknown experiment
--
-- Runs as its owner.
--
-- tests: tests/db/test_experiment_result.py

create function recsys.experiment_health_at(experiment text, at timestamptz default now())
returns table (arm text, share numeric, users bigint, expected float8, first_exposure_at timestamptz,
               last_exposure_at timestamptz, sample_ratio_p float8, mismatch boolean, note text)
language plpgsql stable security definer
set search_path from current
as $function$
#variable_conflict use_column
begin
    if not exists (select from recsys.experiment as x where x.name = experiment_health_at.experiment) then
        raise exception 'unknown experiment %', experiment_health_at.experiment
            using errcode = 'invalid_parameter_value', hint = '''recsys experiment list'' lists them.';
    end if;
    return query
    with seen as (
        select a.arm, a.share, s.users, s.first_at, s.last_at,
               sum(s.users) over () * a.share / sum(a.share) over () as expected, count(*) over () as arms
        from recsys.experiment_arm as a
        join recsys.experiment as e on e.name = a.experiment
        cross join lateral (
            select count(*) as users, min(x.first_at) as first_at, max(x.first_at) as last_at
            from recsys.exposure as x
            where x.experiment = a.experiment and x.arm = a.arm and x.first_at < least(at, e.stopped_at)) as s
        where a.experiment = experiment_health_at.experiment
    ), tested as (
        select s.*, case when sum(s.users) over () > 0 and s.arms > 1
                         then recsys._chi_square_tail((sum((s.users - s.expected) ^ 2 / nullif(s.expected, 0)) over ())::float8,
                                                      s.arms::integer - 1) end as p
        from seen as s
    )
    select t.arm, t.share, t.users, t.expected::float8, t.first_at, t.last_at, t.p, t.p < 0.001,
           recsys._experiment_kept(experiment_health_at.experiment)
    from tested as t
    order by t.arm;
end
$function$;

comment on function recsys.experiment_health_at(text, timestamptz) is
    'Users per arm of an experiment against the plan, as it was at a time.';
