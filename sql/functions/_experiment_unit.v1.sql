-- recsys._experiment_unit: one row per metric and exposed unit, as it was at a time
--
--   -> numerator, denominator  what the unit did between its exposure and p_until (or the stop)
--   -> covariate, ..._denominator  the same in the days before the experiment started, for CUPED
--
-- Attribution is by unit: everything a unit does on the model after the exposure counts for its arm, clicked on a
-- recommendation or not. An outcome is of the unit whose answer it names (request_id), else of the unit that is its
-- user: so those of a session count too. clicks are those of recsys.version_outcome.
--
-- What carries the experiment's name counts, and is never past, whatever the clock said: request processes have
-- clocks of their own. Up to a day, so that the planner still skips partitions.
--
-- tests: tests/db/test_experiment_result.py

create function recsys._experiment_unit(p_experiment text, p_until timestamptz)
returns table (metric text, arm text, unit text, numerator float8, denominator float8,
               covariate float8, covariate_denominator float8)
language sql stable
as $function$
    with e as (
        select x.model, x.started_at, x.started_at - make_interval(days => x.covariate_days) as past,
               x.started_at - make_interval(days => greatest(x.covariate_days, 1)) as earliest,
               least(p_until, x.stopped_at) as until
        from recsys.experiment as x
        where x.name = p_experiment and x.started_at is not null
    ), exposed as (
        select x.unit, x.arm, x.first_at
        from recsys.exposure as x
        where x.experiment = p_experiment and x.first_at < (select e.until from e)
    ), wanted as (
        select m.metric, s.side, split_part(s.measure, '(', 1) as measure,
               rtrim(split_part(s.measure, '(', 2), ')') as kind
        from recsys.experiment_metric as m
        cross join lateral (values ('numerator', m.numerator), ('denominator', m.denominator)) as s (side, measure)
        where m.experiment = p_experiment
    ), answer as materialized (
        -- Times come as sub-selects, not joins: the planner then skips the partitions outside.
        select i.request_id, i.unit, i.occurred_at, i.item_ids, i.experiment is not distinct from p_experiment as ours
        from recsys.impression as i
        where i.model = (select e.model from e) and i.unit is not null
          and i.occurred_at >= (select e.earliest from e) and i.occurred_at < (select e.until from e)
    ), deed as materialized (
        select coalesce(i.unit, o.user_id) as unit, o.kind, o.value, o.occurred_at, coalesce(i.ours, false) as ours,
               case when o.item_id = any (i.item_ids) then o.request_id end as clicked
        from recsys.outcome as o
        left join answer as i on i.request_id = o.request_id
        where o.model = (select e.model from e)
          and o.occurred_at >= (select e.earliest from e) and o.occurred_at < (select e.until from e)
    ), shown as (
        select s.unit,
               count(*) filter (where not s.past) as answers,
               count(s.clicked) filter (where not s.past) as clicks,
               sum(s.items) filter (where not s.past) as items,
               count(*) filter (where s.past) as past_answers,
               count(s.clicked) filter (where s.past) as past_clicks,
               sum(s.items) filter (where s.past) as past_items
        from (
            select x.unit, c.clicked, cardinality(i.item_ids) as items,
                   not i.ours and i.occurred_at < (select e.started_at from e) as past
            from answer as i
            join exposed as x on x.unit = i.unit
            left join (select distinct d.clicked from deed as d) as c on c.clicked = i.request_id
            where i.ours or i.occurred_at >= x.first_at
               or i.occurred_at >= (select e.past from e) and i.occurred_at < (select e.started_at from e)
        ) as s
        where exists (select from wanted as w where w.measure in ('impressions', 'clicks', 'items'))
        group by s.unit
    ), done as (
        select w.metric, w.side, d.unit,
               count(*) filter (where not d.past) as n,
               sum(d.value) filter (where not d.past) as total,
               count(*) filter (where d.past) as past_n,
               sum(d.value) filter (where d.past) as past_total
        from (
            select x.unit, o.kind, o.value, not o.ours and o.occurred_at < (select e.started_at from e) as past
            from deed as o
            join exposed as x on x.unit = o.unit
            where o.ours or o.occurred_at >= x.first_at
               or o.occurred_at >= (select e.past from e) and o.occurred_at < (select e.started_at from e)
        ) as d
        join wanted as w on w.measure in ('count', 'any', 'sum') and w.kind in (d.kind, '*')
        group by w.metric, w.side, d.unit
    ), measured as (
        select w.metric, w.side, x.arm, x.unit,
               case w.measure when 'users' then 1
                              when 'impressions' then coalesce(s.answers, 0)
                              when 'clicks' then coalesce(s.clicks, 0)
                              when 'items' then coalesce(s.items, 0)
                              when 'count' then coalesce(d.n, 0)
                              when 'any' then least(coalesce(d.n, 0), 1)
                              when 'sum' then coalesce(d.total, 0) end::float8 as now,
               case w.measure when 'users' then 1
                              when 'impressions' then coalesce(s.past_answers, 0)
                              when 'clicks' then coalesce(s.past_clicks, 0)
                              when 'items' then coalesce(s.past_items, 0)
                              when 'count' then coalesce(d.past_n, 0)
                              when 'any' then least(coalesce(d.past_n, 0), 1)
                              when 'sum' then coalesce(d.past_total, 0) end::float8 as past
        from exposed as x
        cross join wanted as w
        left join shown as s on s.unit = x.unit
        left join done as d on d.metric = w.metric and d.side = w.side and d.unit = x.unit
    )
    select m.metric, m.arm, m.unit,
           max(m.now) filter (where m.side = 'numerator'), max(m.now) filter (where m.side = 'denominator'),
           max(m.past) filter (where m.side = 'numerator'), max(m.past) filter (where m.side = 'denominator')
    from measured as m
    group by m.metric, m.arm, m.unit
$function$;
