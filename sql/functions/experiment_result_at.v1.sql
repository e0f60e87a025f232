-- recsys.experiment_result_at: the results of an experiment as they were at a time
--
--   experiment, at
--   -> one row per metric and arm; see recsys.experiment_result
--   raises 22023 unknown experiment
--
-- Reads every impression and outcome since the days before the start. Nested loops are off: where the planner takes
-- millions of users for a few, they would take hours.
--
-- The same arithmetic as recsys/experiment/stats.py, which names the sources. Runs as its owner.
--
-- tests: tests/db/test_experiment_result.py

create function recsys.experiment_result_at(experiment text, at timestamptz default now())
returns table (
    metric text, is_primary boolean, arm text, is_control boolean, users bigint, mean float8,
    difference float8, se float8, low float8, high float8, sequence_low float8, sequence_high float8,
    lift float8, lift_low float8, lift_high float8, lift_sequence_low float8, lift_sequence_high float8,
    p_value float8, p_adjusted float8, sequential_p float8, sequential_p_adjusted float8,
    variance_reduction float8, note text
)
language plpgsql stable security definer
set search_path from current
set enable_nestloop = off
set jit = off
as $function$
#variable_conflict use_column
declare
    e     recsys.experiment;
    bound float8;  -- standard errors of the fixed interval
    rho   float8;  -- squared, of the sequences
    kept  text;
begin
    select * into e from recsys.experiment as x where x.name = experiment_result_at.experiment;
    if not found then
        raise exception 'unknown experiment %', experiment_result_at.experiment
            using errcode = 'invalid_parameter_value', hint = '''recsys experiment list'' lists them.';
    end if;
    kept := recsys._experiment_kept(e.name);
    bound := recsys._critical_value(e.alpha);
    rho := (-2 * ln(e.alpha) + ln(1 - 2 * ln(e.alpha))) / e.expected_users;
    return query
    with moment as materialized (
        select m.metric, m.arm, m.users, m.cov, m.mean[1] / nullif(m.mean[2], 0) as metric_value,
               m.mean[3] / nullif(m.mean[4], 0) as past_value,
               -- How metric and covariate change with the four means.
               case when m.mean[2] > 0 then array[1 / m.mean[2], -m.mean[1] / m.mean[2] ^ 2, 0, 0] end as metric_slope,
               case when m.mean[4] > 0 then array[0, 0, 1 / m.mean[4], -m.mean[3] / m.mean[4] ^ 2] end as past_slope
        from recsys._experiment_moment(e.name, least(at, e.stopped_at)) as m
    ), pair as (
        select m.metric as metric_name, a.arm as arm_name, a.is_control as control, o.past_value as centre,
               coalesce(t.users, 0) as t_users, t.metric_value as t_value, t.past_value as t_past, t.cov as t_cov,
               t.metric_slope as t_slope, t.past_slope as t_past_slope,
               coalesce(c.users, 0) as c_users, c.metric_value as c_value, c.past_value as c_past, c.cov as c_cov,
               c.metric_slope as c_slope, c.past_slope as c_past_slope,
               -- The coefficient of CUPED, over all arms: one per arm would be biased.
               case when t.past_slope is null or c.past_slope is null then 0
                    when recsys._bilinear(o.past_slope, o.cov, o.past_slope) > 1e-24 * o.past_value ^ 2
                    then recsys._bilinear(o.metric_slope, o.cov, o.past_slope)
                         / recsys._bilinear(o.past_slope, o.cov, o.past_slope)
                    else 0 end as theta
        from recsys.experiment_metric as m
        join recsys.experiment_arm as a on a.experiment = m.experiment
        left join recsys.experiment_arm as k on k.experiment = m.experiment and k.is_control
        left join moment as t on t.metric = m.metric and t.arm = a.arm
        left join moment as c on c.metric = m.metric and c.arm = k.arm
        left join moment as o on o.metric = m.metric and o.arm is null
        where m.experiment = e.name
    ), adjusted as (
        select p.*,
               p.t_value - p.theta * coalesce(p.t_past - p.centre, 0) as t_mean,
               p.c_value - p.theta * coalesce(p.c_past - p.centre, 0) as c_mean,
               v.t_plain / nullif(p.t_users, 0) + v.c_plain / nullif(p.c_users, 0) as plain,
               greatest(v.t_plain - v.t_saved, 0) / nullif(p.t_users, 0) as t_variance,
               greatest(v.c_plain - v.c_saved, 0) / nullif(p.c_users, 0) as c_variance
        from pair as p
        cross join lateral (
            select recsys._bilinear(p.t_slope, p.t_cov, p.t_slope) as t_plain,
                   recsys._bilinear(p.c_slope, p.c_cov, p.c_slope) as c_plain,
                   coalesce(2 * p.theta * recsys._bilinear(p.t_slope, p.t_cov, p.t_past_slope)
                            - p.theta ^ 2 * recsys._bilinear(p.t_past_slope, p.t_cov, p.t_past_slope), 0) as t_saved,
                   coalesce(2 * p.theta * recsys._bilinear(p.c_slope, p.c_cov, p.c_past_slope)
                            - p.theta ^ 2 * recsys._bilinear(p.c_past_slope, p.c_cov, p.c_past_slope), 0) as c_saved
        ) as v
    ), noted as (
        select d.*,
               case when least(d.t_users, d.c_users) = 0 then 'no exposures'
                    when d.t_value is null or d.c_value is null then 'denominator is zero'
                    when d.control then ''
                    when least(d.t_users, d.c_users) < 2 then 'fewer than two users'
                    when least(d.t_variance, d.c_variance) <= 1e-24 * greatest(abs(d.t_mean), abs(d.c_mean)) ^ 2
                    then 'no variance' else '' end as note
        from adjusted as d
    ), compared as (
        select n.*, c.*
        from noted as n
        left join lateral (
            select n.t_mean - n.c_mean as diff, sqrt(n.t_variance + n.c_variance) as diff_se,
                   (n.t_mean - n.c_mean) / nullif(sqrt(n.t_variance + n.c_variance), 0) as z,
                   case when n.t_mean > 0 and n.c_mean > 0 then ln(n.t_mean / n.c_mean) end as log_ratio,
                   case when n.t_mean > 0 and n.c_mean > 0
                        then sqrt(n.t_variance / n.t_mean ^ 2 + n.c_variance / n.c_mean ^ 2) end as log_se,
                   -- A sequence needs the normal approximation at every look, so from 100 users an arm on.
                   case when least(n.t_users, n.c_users) >= 100 then (n.t_users + n.c_users) * rho end as spread
            where not n.control and n.note = ''
        ) as c on true
    ), tested as (
        select c.*, c.metric_name = e.primary_metric as main,
               sqrt(2 * (c.spread + 1) / c.spread * ln(sqrt(c.spread + 1) / e.alpha)) as factor,
               erfc(abs(c.z) / sqrt(2::float8)) as p,
               case when c.spread is not null
                    then exp(greatest(least(ln(c.spread + 1) / 2 - c.z ^ 2 * c.spread / (2 * (c.spread + 1)), 0), -700))
                    end as s
        from compared as c
    ), ranked as (
        -- Holm's factors: among the treatments for the primary metric, among all the rest for the others.
        select t.*,
               count(t.p) over (partition by t.main) + 1 - row_number() over (partition by t.main order by t.p) as p_factor,
               count(t.s) over (partition by t.main) + 1 - row_number() over (partition by t.main order by t.s) as s_factor
        from tested as t
    )
    select r.metric_name, r.main, r.arm_name, r.control, r.t_users, r.t_value,
           r.diff, r.diff_se, r.diff - bound * r.diff_se, r.diff + bound * r.diff_se,
           r.diff - r.factor * r.diff_se, r.diff + r.factor * r.diff_se,
           recsys._lift(r.log_ratio),
           recsys._lift(r.log_ratio - bound * r.log_se), recsys._lift(r.log_ratio + bound * r.log_se),
           recsys._lift(r.log_ratio - r.factor * r.log_se), recsys._lift(r.log_ratio + r.factor * r.log_se),
           r.p, case when r.p is not null
                     then least(max(r.p * r.p_factor) over (partition by r.main order by r.p_factor desc), 1) end,
           r.s, case when r.s is not null
                     then least(max(r.s * r.s_factor) over (partition by r.main order by r.s_factor desc), 1) end,
           case when r.plain > 0 and r.diff_se is not null then 1 - r.diff_se ^ 2 / r.plain end,
           coalesce(nullif(r.note, ''), kept)
    from ranked as r
    order by r.main desc, r.metric_name, r.control desc, r.arm_name;
end
$function$;

comment on function recsys.experiment_result_at(text, timestamptz) is
    'The results of an experiment as they were at a time: one row per metric and arm.';
