-- recsys._guard_moments: what the guardrails compare, summed up per version and metric
--
--   p_versions  the versions to look at
--   p_since     answers and outcomes from then on
--   p_slow      answers that took more milliseconds than this count as slow; null counts none
--   -> metric   error_rate, degraded_rate, short_page_rate, slow_rate, ctr, conversion: a numerator per unit over its
--               number of answers; revenue: value per unit
--   -> units, answers, and mean, variance and covariance of numerator and denominator over units
--
-- A unit is what was assigned to the version: its answers are not independent of each other, units are. Answers for
-- nobody in particular always go to the base, so they are no measure of the candidate; neither are those of an
-- experiment, whose units were chosen otherwise. Click and conversion are those of recsys.version_outcome.
--
-- Answers are narrowed before they are grouped: sorting a million of them with their items goes to disk.
--
-- tests: tests/db/test_guardrails.py

create function recsys._guard_moments(p_model text, p_versions integer[], p_since timestamptz, p_slow real)
returns table (
    version integer, metric text, units bigint, answers bigint,
    mean_x double precision, mean_y double precision,
    var_x double precision, var_y double precision, cov_xy double precision
)
language sql stable
set work_mem = '64MB'
as $function$
    with answer as materialized (
        select
            i.request_id, i.version, i.unit,
            i.error is not null as failed,
            i.degraded is not null as degraded,
            i.error is null and cardinality(i.item_ids) < i.k as short,
            coalesce(i.took_ms > p_slow, false) as slow
        from recsys.impression as i
        where i.model = p_model and i.version = any (p_versions) and i.occurred_at >= p_since
          and i.unit is not null and i.experiment is null
    ),
    best as (
        select distinct on (v.number) v.number, w.key as kind
        from recsys.model_version as v
        cross join lateral jsonb_each_text(v.spec -> 'interactions' -> 'weights') as w
        where v.model = p_model and v.number = any (p_versions)
        order by v.number, w.value::double precision desc, w.key
    ),
    led as materialized (
        select
            i.request_id,
            bool_or(coalesce(o.kind = b.kind, o.value is not null)) as converted,
            coalesce(sum(o.value), 0) as value
        from recsys.outcome as o
        join recsys.impression as i
            on i.request_id = o.request_id and i.model = o.model and o.item_id = any (i.item_ids)
        left join best as b on b.number = i.version
        where o.model = p_model and o.request_id is not null and o.occurred_at >= p_since
          and i.model = p_model and i.version = any (p_versions) and i.occurred_at >= p_since
        group by i.request_id
    ),
    unit as (
        select
            a.version, a.unit,
            count(*) as answers,
            count(*) filter (where a.failed) as failed,
            count(*) filter (where a.degraded) as degraded,
            count(*) filter (where a.short) as short,
            count(*) filter (where a.slow) as slow,
            count(l.request_id) as clicked,
            count(*) filter (where l.converted) as converted,
            coalesce(sum(l.value), 0) as value
        from answer as a
        left join led as l on l.request_id = a.request_id
        group by a.version, a.unit
    )
    select
        u.version, m.metric, count(*), sum(u.answers)::bigint,
        avg(m.x), avg(m.y), coalesce(var_samp(m.x), 0), coalesce(var_samp(m.y), 0), coalesce(covar_samp(m.x, m.y), 0)
    from unit as u
    cross join lateral (values
        ('error_rate', u.failed::double precision, u.answers::double precision),
        ('degraded_rate', u.degraded, u.answers),
        ('short_page_rate', u.short, u.answers),
        ('slow_rate', u.slow, u.answers),
        ('ctr', u.clicked, u.answers),
        ('conversion', u.converted, u.answers),
        ('revenue', u.value::double precision, 1.0)
    ) as m (metric, x, y)
    group by u.version, m.metric
$function$;
