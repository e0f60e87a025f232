-- recsys._experiment_unit: one row per metric and exposed unit, as it was at a time
--
--   -> numerator, denominator  what the unit did between its exposure and p_until (or the stop)
--   -> covariate, ..._denominator  the same in the days before the experiment started, for CUPED
--
-- Attribution is by user: everything a user does on the model after the exposure counts for the arm, clicked on a
-- recommendation or not. An answer that carries the experiment's name counts whatever the clock said.
--
-- tests: tests/db/test_experiment_result.py

create function recsys._experiment_unit(p_experiment text, p_until timestamptz)
returns table (metric text, arm text, unit text, numerator float8, denominator float8,
               covariate float8, covariate_denominator float8)
language sql stable
as $function$
    with e as (
        select x.model, x.started_at, x.started_at - make_interval(days => x.covariate_days) as past,
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
    ), shown as (
        -- Times come as sub-selects, not joins: the planner then skips the partitions outside.
        select x.unit,
               count(*) filter (where i.occurred_at >= (select e.started_at from e)) as answers,
               sum(cardinality(i.item_ids)) filter (where i.occurred_at >= (select e.started_at from e)) as items,
               count(*) filter (where i.occurred_at < (select e.started_at from e)) as past_answers,
               sum(cardinality(i.item_ids)) filter (where i.occurred_at < (select e.started_at from e)) as past_items
        from recsys.impression as i
        join exposed as x on x.unit = i.unit
        where i.model = (select e.model from e) and i.error is null
          and i.occurred_at >= (select e.past from e) and i.occurred_at < (select e.until from e)
          and (i.occurred_at >= x.first_at or i.occurred_at < (select e.started_at from e) or i.experiment = p_experiment)
          and exists (select from wanted as w where w.measure in ('impressions', 'items'))
        group by x.unit
    ), done as (
        select w.metric, w.side, x.unit,
               count(*) filter (where o.occurred_at >= (select e.started_at from e)) as n,
               sum(o.value) filter (where o.occurred_at >= (select e.started_at from e)) as total,
               count(*) filter (where o.occurred_at < (select e.started_at from e)) as past_n,
               sum(o.value) filter (where o.occurred_at < (select e.started_at from e)) as past_total
        from recsys.outcome as o
        join exposed as x on x.unit = o.user_id
        join wanted as w on w.measure in ('count', 'any', 'sum') and w.kind in (o.kind, '*')
        where o.model = (select e.model from e)
          and o.occurred_at >= (select e.past from e) and o.occurred_at < (select e.until from e)
          and (o.occurred_at >= x.first_at or o.occurred_at < (select e.started_at from e))
        group by w.metric, w.side, x.unit
    ), measured as (
        select w.metric, w.side, x.arm, x.unit,
               case w.measure when 'users' then 1
                              when 'impressions' then coalesce(s.answers, 0)
                              when 'items' then coalesce(s.items, 0)
                              when 'count' then coalesce(d.n, 0)
                              when 'any' then least(coalesce(d.n, 0), 1)
                              when 'sum' then coalesce(d.total, 0) end::float8 as now,
               case w.measure when 'users' then 1
                              when 'impressions' then coalesce(s.past_answers, 0)
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
