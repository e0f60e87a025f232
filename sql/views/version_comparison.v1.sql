-- recsys.version_comparison: every comparison of two versions, one row per metric
--
-- base and candidate are the two values, difference is candidate - base, low and high its 95 % interval over the
-- users. overlap@k and rbo have no base: they say how alike the two lists are, and low and high are of that value.

create view recsys.version_comparison as
select
    c.id                                      as comparison,
    c.model,
    c.number,
    c.base_number,
    c.created_at,
    c.created_by,
    c.cutoff,
    c.users,
    c.hits,
    c.k,
    c.sample_percent,
    c.limited,
    c.passed,
    c.verdict,
    metric.key                                as metric,
    (metric.value ->> 'base')::float8         as base,
    (metric.value ->> 'candidate')::float8    as candidate,
    (metric.value ->> 'difference')::float8   as difference,
    (metric.value ->> 'low')::float8          as low,
    (metric.value ->> 'high')::float8         as high,
    (metric.value ->> 'popular')::float8      as popular
from recsys.comparison as c
cross join lateral jsonb_each(c.metrics) as metric;

comment on view recsys.version_comparison is
    'Every comparison of two versions, one row per metric: base, candidate, difference and its 95 % interval.';
