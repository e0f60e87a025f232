-- recsys.version_metric: offline metrics, one row per version, slice, method and metric
--
-- slice   "validation" (settings were chosen on it) or the name an evaluation was stored under
-- method  "model", "most_popular", "popular_30d"

create view recsys.version_metric as
select
    v.model,
    v.number,
    slice.key                as slice,
    method.key               as method,
    metric.key               as metric,
    (metric.value)::float8   as value
from recsys.model_version as v
cross join lateral jsonb_each(v.metrics) as slice
cross join lateral jsonb_each(
    case when jsonb_typeof(slice.value) = 'object' then slice.value else '{}' end) as method
cross join lateral jsonb_each_text(
    case when jsonb_typeof(method.value) = 'object' then method.value else '{}' end) as metric;

comment on view recsys.version_metric is
    'Offline metrics of every version beside the popularity floors: one row per slice, method and metric.';
